"""IQ3_S: blocks of 256 elements in eight groups of 32, each eight points of a grid with signs.

An element is (d * (2 s + 1)) * coordinate * sign. A block is d (2 bytes), the low eight bits of the
numbers of the points, which have four coordinates (64 bytes), their ninth bits (8 bytes, the first
point's lowest), the elements' signs (32 bytes, the first element's lowest), s of the groups (4
bytes, two in each, the first in the low half).
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import grids
from pagemill.weights.formats.blocks import Bytes, Float32, half, split_bits, unpack_rows

NAME: Final = "IQ3_S"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 110


def unpack(raw: Bytes) -> Float32:
    """(rows, 110 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    ninth = split_bits(blocks[:, 66:74], 1, 1).astype(np.uint16) << 8
    scales = half(blocks, 0) * (2 * split_bits(blocks[:, 106:], 4, 1) + np.uint8(1))
    grids.put(grids.points(NAME), blocks[:, 2:66] | ninth, out.reshape(-1, 64, 4))
    groups = out.reshape(-1, 8, 32)
    groups *= scales[:, :, None]
    out *= grids.signs()[blocks[:, 74:106]].reshape(out.shape)
