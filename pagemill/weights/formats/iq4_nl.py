"""IQ4_NL: blocks of 32 four-bit numbers under one half-precision scale d; an element is v[q] * d.

v is the table NON_LINEAR. A block is d (2 bytes), then 16 bytes: byte j holds element j in its low
and j + 16 in its high half.
"""

from typing import Final

from pagemill.weights.formats.blocks import Bytes, Float32, half, split_bits, unpack_rows
from pagemill.weights.formats.levels import NON_LINEAR, look_up

NAME: Final = "IQ4_NL"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 18


def unpack(raw: Bytes) -> Float32:
    """(rows, 18 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    look_up(NON_LINEAR, split_bits(blocks[:, 2:], 4, 16), out)
    out *= half(blocks, 0)
