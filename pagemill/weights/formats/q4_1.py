"""Q4_1: blocks of 32 four-bit numbers under half-precision scale d and least value m: q * d + m.

A block is d (2 bytes), m (2 bytes), then 16 bytes: byte j holds element j in its low and j + 16 in
its high half.
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

NAME: Final = "Q4_1"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 20


def unpack(raw: Bytes) -> Float32:
    """(rows, 20 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    np.multiply(split_bits(blocks[:, 4:], 4, 16), half(blocks, 0), out=out)
    out += half(blocks, 2)


def pack(values: Float32) -> Bytes:
    """(rows, 32 B) -> (rows, 20 B) bytes. A block's least value becomes 0, its greatest 15."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    least = blocks.min(axis=1, keepdims=True)
    scale = (blocks.max(axis=1, keepdims=True) - least) / np.float32(15)
    scaled = (blocks - least) * inverse(scale) + np.float32(0.5)
    quants = np.minimum(15, scaled.astype(np.uint8))
    return np.concatenate([half_bytes(scale), half_bytes(least), join_bits(quants, 4, 16)], axis=1)
