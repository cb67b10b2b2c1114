"""IQ2_S: blocks of 256 elements in sixteen groups of 16, each two points of a grid with signs.

An element is (d * (s + 1/2) / 4) * coordinate * sign. A block is d (2 bytes), the low eight bits of
the points' numbers (32 bytes), the signs of their eight coordinates (32 bytes), the upper two bits
of their numbers (8 bytes, the first point's lowest), s of the groups (8 bytes, two in each, the
first in the low half).
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import grids
from pagemill.weights.formats.blocks import Bytes, Float32, half, split_bits, unpack_rows

NAME: Final = "IQ2_S"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 82


def unpack(raw: Bytes) -> Float32:
    """(rows, 82 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    upper = split_bits(blocks[:, 66:74], 2, 1).astype(np.uint16) << 8
    numbers = split_bits(blocks[:, 74:], 4, 1).astype(np.float32)
    scales = half(blocks, 0) * (numbers + np.float32(0.5)) * np.float32(0.25)
    groups = out.reshape(-1, 16, 2, 8)
    grids.put(grids.points(NAME), (blocks[:, 2:34] | upper).reshape(-1, 16, 2), groups)
    groups *= scales[:, :, None, None]
    groups *= grids.signs()[blocks[:, 34:66]].reshape(groups.shape)
