"""Q2_0: blocks of 64 two-bit numbers under one half-precision scale d; an element is (q - 1) * d.

A block is d (2 bytes), then 16 bytes: byte j holds elements 4 j to 4 j + 3, the first in its lowest
bits.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import Bytes, Float32, half, split_bits, unpack_rows

NAME: Final = "Q2_0"
BLOCK_SIZE: Final = 64
BLOCK_BYTES: Final = 18


def unpack(raw: Bytes) -> Float32:
    """(rows, 18 B) bytes -> (rows, 64 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    quants = split_bits(blocks[:, 2:], 2, 1).view(np.int8) - np.int8(1)
    np.multiply(quants, half(blocks, 0), out=out)
