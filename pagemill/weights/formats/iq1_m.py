"""IQ1_M: blocks of 256 elements in sixteen groups of 16, each two points of a grid of -1, 0, 1.

An element is (d * (2 s + 1)) * (coordinate + 1/8), or - 1/8 where the point's highest bit is set. A
block is the low eight bits of the points' numbers (32 bytes), four bits more for each (16 bytes,
the first point's low half): the upper three of its number and the bit that chooses 1/8 or - 1/8;
then 8 bytes as four words, which hold, from the lowest bit up, s of four groups (3 bits each) and
four bits of d, the first word its lowest.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import grids
from pagemill.weights.formats.blocks import Bytes, Float32, split_bits, unpack_rows

NAME: Final = "IQ1_M"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 56


def unpack(raw: Bytes) -> Float32:
    """(rows, 56 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    words = blocks[:, 48:].copy().view("<u2")
    quarters = words >> 12 << np.array([0, 4, 8, 12], np.uint16)
    d = np.bitwise_or.reduce(quarters, axis=1).view(np.float16).astype(np.float32)
    numbers = words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & np.uint16(7)
    scales = d[:, None] * (2 * numbers.reshape(-1, 16) + np.uint16(1))
    more = split_bits(blocks[:, 32:48], 4, 1)  # (n, 32)
    shifts = np.where(more & 8, np.float32(-0.125), np.float32(0.125))
    points = out.reshape(-1, 32, 8)
    grids.put(grids.points("IQ1_S"), blocks[:, :32] | (more & 7).astype(np.uint16) << 8, points)
    points += shifts[:, :, None]
    groups = out.reshape(-1, 16, 16)
    groups *= scales[:, :, None]
