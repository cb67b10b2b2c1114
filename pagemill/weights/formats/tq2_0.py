"""TQ2_0: blocks of 256 numbers -1, 0, 1 of two bits under one half-precision scale d.

An element is (q - 1) * d. A block is q (64 bytes: of each 32, the lowest two bits are 32 elements,
the next two the next 32, and so on), then d (2 bytes).
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    half,
    half_bytes,
    join_bits,
    pack_rows,
    split_bits,
    unpack_rows,
)
from pagemill.weights.formats.ternary import round_to_ternary

NAME: Final = "TQ2_0"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 66


def unpack(raw: Bytes) -> Float32:
    """(rows, 66 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    quants = split_bits(blocks[:, :64], 2, 32).view(np.int8) - np.int8(1)
    np.multiply(quants, half(blocks, 64), out=out)


def pack(values: Float32) -> Bytes:
    """(rows, 256 B) -> (rows, 66 B) bytes. The largest magnitude of a block becomes d."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    scale, digits = round_to_ternary(blocks)
    return np.concatenate([join_bits(digits, 2, 32), half_bytes(scale)], axis=1)
