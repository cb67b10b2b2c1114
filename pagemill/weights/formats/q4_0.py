"""Q4_0: blocks of 32 four-bit numbers under one half-precision scale d; an element is (q - 8) * d.

A block is d (2 bytes), then 16 bytes: byte j holds element j in its low and j + 16 in its high
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

NAME: Final = "Q4_0"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 18


def unpack(raw: Bytes) -> Float32:
    """(rows, 18 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    quants = split_bits(blocks[:, 2:], 4, 16).view(np.int8) - np.int8(8)
    np.multiply(quants, half(blocks, 0), out=out)


def from_parts(quants: Bytes, scales: Float32) -> Bytes:
    """Numbers (rows, K) below 16 and, for each block of them, scales (rows, B)."""
    packed = join_bits(quants.reshape(-1, 32), 4, 16)
    blocks = np.concatenate([half_bytes(scales.reshape(-1, 1)), packed], axis=1)
    return blocks.reshape(len(quants), -1)


def pack(values: Float32) -> Bytes:
    """(rows, 32 B) -> (rows, 18 B) bytes. The largest magnitude of a block becomes -8."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    widest = np.abs(blocks).argmax(axis=1, keepdims=True)
    scale = np.take_along_axis(blocks, widest, axis=1) / np.float32(-8)
    quants = np.minimum(15, (blocks * inverse(scale) + np.float32(8.5)).astype(np.int8)).view(
        np.uint8
    )
    return np.concatenate([half_bytes(scale), join_bits(quants, 4, 16)], axis=1)
