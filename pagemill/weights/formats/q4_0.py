"""Q4_0: blocks of 32 four-bit numbers under one half-precision scale d; an element is (q - 8) * d.

A block is d (2 bytes), then 16 bytes: byte j holds element j in its low and j + 16 in its high
half.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAME: Final = "Q4_0"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 18


def unpack(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(rows, 18 B) bytes -> (rows, 32 B)."""
    rows = raw.shape[0]
    blocks = np.ascontiguousarray(raw).reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    nibbles = np.concatenate([blocks[:, 2:] & 0x0F, blocks[:, 2:] >> 4], axis=1)  # (blocks, 32)
    return ((nibbles.astype(np.float32) - np.float32(8)) * scale).reshape(rows, -1)


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(rows, 32 B) -> (rows, 18 B) bytes. The largest magnitude of a block becomes -8."""
    rows = values.shape[0]
    blocks = np.asarray(values, dtype=np.float32).reshape(-1, BLOCK_SIZE)
    widest = np.abs(blocks).argmax(axis=1, keepdims=True)
    scale = np.take_along_axis(blocks, widest, axis=1) / np.float32(-8)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    quants = np.minimum(15, (blocks * inverse + np.float32(8.5)).astype(np.int8)).astype(np.uint8)
    halves = quants[:, :16] | (quants[:, 16:] << 4)
    return np.concatenate([scale.astype("<f2").view(np.uint8), halves], axis=1).reshape(rows, -1)
