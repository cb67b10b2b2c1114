"""IQ1_S: blocks of 256 elements in eight groups of 32, each four points of a grid of -1, 0, 1.

An element is (d * (2 s + 1)) * (coordinate + 1/8), or - 1/8 where the group's highest bit is set. A
block is d (2 bytes), the low eight bits of the points' numbers (32 bytes), then 2 bytes for each
group that hold, from the lowest bit up, the upper three bits of its four points' numbers, s (3
bits) and the bit that chooses 1/8 or - 1/8.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import grids
from pagemill.weights.formats.blocks import Bytes, Float32, half, unpack_rows

NAME: Final = "IQ1_S"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 50


def unpack(raw: Bytes) -> Float32:
    """(rows, 50 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    words = blocks[:, 34:].copy().view("<u2")
    upper = words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & np.uint16(7)
    scales = half(blocks, 0) * (2 * (words >> 12 & 7) + np.uint16(1))
    shifts = np.where(words >> 15, np.float32(-0.125), np.float32(0.125))
    groups = out.reshape(-1, 8, 4, 8)
    grids.put(grids.points(NAME), blocks[:, 2:34].reshape(-1, 8, 4) | upper << 8, groups)
    groups += shifts[:, :, None, None]
    groups *= scales[:, :, None, None]
