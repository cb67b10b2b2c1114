"""Q8_0: blocks of 32 signed bytes under one half-precision scale d; an element is q * d.

A block is d (2 bytes), then q[0..31].
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAME: Final = "Q8_0"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 34


def unpack(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(rows, 34 B) bytes -> (rows, 32 B)."""
    rows = raw.shape[0]
    blocks = np.ascontiguousarray(raw).reshape(-1, BLOCK_BYTES)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    quants = blocks[:, 2:].view(np.int8)  # (blocks, 32)
    return (quants * scale).reshape(rows, -1)


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(rows, 32 B) -> (rows, 34 B) bytes. The largest magnitude of a block becomes 127."""
    rows = values.shape[0]
    blocks = np.asarray(values, dtype=np.float32).reshape(-1, BLOCK_SIZE)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse
    # Halves go away from zero, as C's roundf does.
    quants = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled).astype(np.int8)
    packed = np.concatenate([scale.astype("<f2").view(np.uint8), quants.view(np.uint8)], axis=1)
    return packed.reshape(rows, -1)
