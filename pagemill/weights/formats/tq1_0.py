"""TQ1_0: blocks of 256 numbers -1, 0, 1 under one half-precision scale d, five to a byte.

A byte holds base-three digits as the fraction b / 256: three times it has the first digit before
the point, and what is left the next ones. A block is 48 bytes of five digits (of each of two runs,
32 and 16 bytes, all first digits are the first elements, then all second digits, and so on), 4
bytes of four digits in the same way, d (2 bytes). An element is (digit - 1) * d.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    half,
    half_bytes,
    pack_rows,
    unpack_rows,
)
from pagemill.weights.formats.ternary import round_to_ternary

NAME: Final = "TQ1_0"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 54

# First byte and number of bytes of each run, and how many digits a byte of it holds.
_RUNS: Final = ((0, 32, 5), (32, 16, 5), (48, 4, 4))


def unpack(raw: Bytes) -> Float32:
    """(rows, 54 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    runs = [
        blocks[:, None, start : start + size] * _powers(digits) for start, size, digits in _RUNS
    ]
    fractions = np.concatenate([run.reshape(len(blocks), -1) for run in runs], axis=1)
    digits = (fractions.astype(np.uint16) * np.uint16(3) >> 8).astype(np.int8)
    np.multiply(digits - np.int8(1), half(blocks, 52), out=out)


def pack(values: Float32) -> Bytes:
    """(rows, 256 B) -> (rows, 54 B) bytes. The largest magnitude of a block becomes d."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    scale, digits = round_to_ternary(blocks)
    parts, at = [], 0
    for _, size, count in _RUNS:
        run = digits[:, at : at + size * count].reshape(-1, count, size)
        # A run of four digits has a fifth, which is 0.
        number = 3 ** (5 - count) * (run * _powers(count)[::-1]).sum(axis=1, dtype=np.uint16)
        parts.append(
            ((number * 256 + 242) // 243).astype(np.uint8)
        )  # rounded up: 3 b must reach it
        at += size * count
    return np.concatenate([*parts, half_bytes(scale)], axis=1)


def _powers(count: int) -> Bytes:
    """1, 3, 9, ... as a column."""
    return np.array([3**digit for digit in range(count)], np.uint8)[:, None]
