"""Q4_1: blocks of 32 four-bit numbers under half-precision scale d and least value m: q * d + m.

A block is d (2 bytes), m (2 bytes), then 16 bytes: byte j holds element j in its low and j + 16 in
its high half.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAME: Final = "Q4_1"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 20


def unpack(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(rows, 20 B) bytes -> (rows, 32 B)."""
    rows = raw.shape[0]
    blocks = np.ascontiguousarray(raw).reshape(-1, BLOCK_BYTES)
    scale = blocks[:, 0:2].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    least = blocks[:, 2:4].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    nibbles = np.concatenate([blocks[:, 4:] & 0x0F, blocks[:, 4:] >> 4], axis=1)  # (blocks, 32)
    return (nibbles.astype(np.float32) * scale + least).reshape(rows, -1)


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(rows, 32 B) -> (rows, 20 B) bytes. A block's least value becomes 0, its greatest 15."""
    rows = values.shape[0]
    blocks = np.asarray(values, dtype=np.float32).reshape(-1, BLOCK_SIZE)
    least = blocks.min(axis=1, keepdims=True)
    scale = (blocks.max(axis=1, keepdims=True) - least) / np.float32(15)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = (blocks - least) * inverse + np.float32(0.5)
    quants = np.minimum(15, scaled.astype(np.uint8))
    halves = quants[:, :16] | (quants[:, 16:] << 4)
    heads = [scale.astype("<f2").view(np.uint8), least.astype("<f2").view(np.uint8)]
    return np.concatenate([*heads, halves], axis=1).reshape(rows, -1)
