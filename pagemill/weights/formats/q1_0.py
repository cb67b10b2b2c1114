"""Q1_0: blocks of 128 signs under one half-precision scale d; an element is d or -d.

A block is d (2 bytes), then 16 bytes: bit i of byte j is set where element 8 j + i is d.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import Bytes, Float32, half, split_bits, unpack_rows

NAME: Final = "Q1_0"
BLOCK_SIZE: Final = 128
BLOCK_BYTES: Final = 18


def unpack(raw: Bytes) -> Float32:
    """(rows, 18 B) bytes -> (rows, 128 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    bits = split_bits(blocks[:, 2:], 1, 1).view(np.int8)
    np.multiply(2 * bits - np.int8(1), half(blocks, 0), out=out)
