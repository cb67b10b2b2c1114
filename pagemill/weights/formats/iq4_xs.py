"""IQ4_XS: blocks of 256 four-bit numbers in eight groups of 32: an element is v[q] * (d * s).

v is the table NON_LINEAR, s its group's six-bit number less 32. A block is d (2 bytes), the upper
two bits of the eight s (2 bytes, the first group's lowest), their low four bits (4 bytes, two in
each, the first in the low half), then 128 bytes: of each 16, the low halves are 16 elements and the
high halves the next 16.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import Bytes, Float32, half, split_bits, unpack_rows
from pagemill.weights.formats.levels import NON_LINEAR, look_up

NAME: Final = "IQ4_XS"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 136


def unpack(raw: Bytes) -> Float32:
    """(rows, 136 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    six_bits = split_bits(blocks[:, 4:8], 4, 1) | split_bits(blocks[:, 2:4], 2, 1) << 4
    scales = half(blocks, 0) * (six_bits.view(np.int8) - np.int8(32))
    look_up(NON_LINEAR, split_bits(blocks[:, 8:], 4, 16), out)
    groups = out.reshape(-1, 8, 32)
    groups *= scales[:, :, None]
