"""IQ3_XXS: blocks of 256 elements in eight groups of 32, each eight points of a grid with signs.

An element is (d * (s + 1/2) / 2) * coordinate * sign. A block is d (2 bytes), the numbers of the
points, which have four coordinates (64 bytes), then 4 bytes for each group that hold, from the
lowest bit up, the signs of each eight elements (7 bits) and s (4 bits).
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import grids
from pagemill.weights.formats.blocks import Bytes, Float32, half, unpack_rows

NAME: Final = "IQ3_XXS"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 98


def unpack(raw: Bytes) -> Float32:
    """(rows, 98 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    numbers, signs = grids.scales_with_signs(blocks[:, 66:])
    scales = half(blocks, 0) * (numbers + np.float32(0.5)) * np.float32(0.5)
    grids.put(grids.points(NAME), blocks[:, 2:66], out.reshape(-1, 64, 4))
    groups = out.reshape(-1, 8, 4, 8)
    groups *= scales[:, :, None, None]
    groups *= signs
