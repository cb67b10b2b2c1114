"""IQ2_XXS: blocks of 256 elements in eight groups of 32, each four points of a grid with signs.

An element is (d * (s + 1/2) / 4) * coordinate * sign. A block is d (2 bytes), then 8 bytes for each
group: the numbers of four points (1 byte each), and 4 bytes that hold, from the lowest bit up, the
signs of each point's eight coordinates (7 bits) and s (4 bits).
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import grids
from pagemill.weights.formats.blocks import Bytes, Float32, half, unpack_rows

NAME: Final = "IQ2_XXS"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 66


def unpack(raw: Bytes) -> Float32:
    """(rows, 66 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    words = blocks[:, 2:].reshape(-1, 8, 8)
    numbers, signs = grids.scales_with_signs(words[:, :, 4:].reshape(-1, 32))
    scales = half(blocks, 0) * (numbers + np.float32(0.5)) * np.float32(0.25)
    groups = out.reshape(-1, 8, 4, 8)
    grids.put(grids.points(NAME), words[:, :, :4], groups)
    groups *= scales[:, :, None, None]
    groups *= signs
