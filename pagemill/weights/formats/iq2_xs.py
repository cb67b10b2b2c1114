"""IQ2_XS: blocks of 256 elements in sixteen groups of 16, each two points of a grid with signs.

An element is (d * (s + 1/2) / 4) * coordinate * sign. A block is d (2 bytes), then 2 bytes for each
point: its number (the lowest 9 bits) and the signs of its eight coordinates (7 bits), then s of the
groups (8 bytes, two in each, the first in the low half).
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import grids
from pagemill.weights.formats.blocks import Bytes, Float32, half, split_bits, unpack_rows

NAME: Final = "IQ2_XS"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 74


def unpack(raw: Bytes) -> Float32:
    """(rows, 74 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    words = blocks[:, 2:66].copy().view("<u2").reshape(-1, 16, 2)
    numbers = split_bits(blocks[:, 66:], 4, 1).astype(np.float32)
    scales = half(blocks, 0) * (numbers + np.float32(0.5)) * np.float32(0.25)
    groups = out.reshape(-1, 16, 2, 8)
    grids.put(grids.points(NAME), words & np.uint16(511), groups)
    groups *= scales[:, :, None, None]
    groups *= grids.even_signs()[words >> 9]
