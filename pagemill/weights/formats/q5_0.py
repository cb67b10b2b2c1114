"""Q5_0: blocks of 32 five-bit numbers under one half-precision scale d; an element is (q - 16) * d.

A block is d (2 bytes), the fifth bits (4 bytes, bit i of their 32 is element i's), then 16 bytes:
byte j holds the low four bits of element j in its low and of j + 16 in its high half.
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

NAME: Final = "Q5_0"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 22


def unpack(raw: Bytes) -> Float32:
    """(rows, 22 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    quants = split_bits(blocks[:, 6:], 4, 16) | split_bits(blocks[:, 2:6], 1, 1) << 4
    np.multiply(quants.view(np.int8) - np.int8(16), half(blocks, 0), out=out)


def pack(values: Float32) -> Bytes:
    """(rows, 32 B) -> (rows, 22 B) bytes. The largest magnitude of a block becomes -16."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    widest = np.abs(blocks).argmax(axis=1, keepdims=True)
    scale = np.take_along_axis(blocks, widest, axis=1) / np.float32(-16)
    quants = np.minimum(31, (blocks * inverse(scale) + np.float32(16.5)).astype(np.int8)).view(
        np.uint8
    )
    fifth = join_bits(quants >> 4, 1, 1)
    return np.concatenate([half_bytes(scale), fifth, join_bits(quants & 0x0F, 4, 16)], axis=1)
