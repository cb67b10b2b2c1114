"""Q5_1: blocks of 32 five-bit numbers under half-precision scale d and least value m: q * d + m.

A block is d (2 bytes), m (2 bytes), the fifth bits (4 bytes, bit i of their 32 is element i's),
then 16 bytes: byte j holds the low four bits of element j in its low and of j + 16 in its high
half.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    half,
    half_bytes,
    inverse,
    join_bits,
    pack_rows,
    split_bits,
    unpack_rows,
)

NAME: Final = "Q5_1"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 24


def unpack(raw: Bytes) -> Float32:
    """(rows, 24 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    quants = split_bits(blocks[:, 8:], 4, 16) | split_bits(blocks[:, 4:8], 1, 1) << 4
    np.multiply(quants, half(blocks, 0), out=out)
    out += half(blocks, 2)


def pack(values: Float32) -> Bytes:
    """(rows, 32 B) -> (rows, 24 B) bytes. A block's least value becomes 0, its greatest 31."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    least = blocks.min(axis=1, keepdims=True)
    scale = (blocks.max(axis=1, keepdims=True) - least) / np.float32(31)
    scaled = (blocks - least) * inverse(scale) + np.float32(0.5)
    quants = np.minimum(31, scaled.astype(np.uint8))
    fifth, rest = join_bits(quants >> 4, 1, 1), join_bits(quants & 0x0F, 4, 16)
    return np.concatenate([half_bytes(scale), half_bytes(least), fifth, rest], axis=1)
