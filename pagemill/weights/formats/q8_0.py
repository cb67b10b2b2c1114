"""Q8_0: blocks of 32 signed bytes under one half-precision scale d; an element is q * d.

A block is d (2 bytes), then q[0..31].
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    half,
    half_bytes,
    inverse,
    pack_rows,
    unpack_rows,
)

NAME: Final = "Q8_0"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 34


def unpack(raw: Bytes) -> Float32:
    """(rows, 34 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    np.multiply(blocks[:, 2:].view(np.int8), half(blocks, 0), out=out)


def from_parts(quants: Bytes, scales: Float32) -> Bytes:
    """Signed numbers (rows, K) and, for each block of them, scales (rows, B)."""
    blocks = np.concatenate([half_bytes(scales.reshape(-1, 1)), quants.reshape(-1, 32)], axis=1)
    return blocks.reshape(len(quants), -1)


def pack(values: Float32) -> Bytes:
    """(rows, 32 B) -> (rows, 34 B) bytes. The largest magnitude of a block becomes 127."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * inverse(scale)
    # Halves go away from zero, as C's roundf does.
    quants = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled).astype(np.int8)
    return np.concatenate([half_bytes(scale), quants.view(np.uint8)], axis=1)
