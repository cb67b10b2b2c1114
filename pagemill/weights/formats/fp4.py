"""FP4 of bitsandbytes: blocks of 32 four-bit floating-point numbers under a scale s.

A number is a sign, two bits of exponent and one of mantissa, as parts of the largest: 0, 1/192 (the
subnormal one), 1/6, 1/4, 1/3, 1/2, 2/3 and 1, in the order of `TABLE`. `tables.py` says how a block
is laid out. It is what `load_in_4bit` gives unless NF4 is asked for.
"""

from typing import Final

from pagemill.weights.formats.blocks import Bytes, Float32
from pagemill.weights.formats.tables import BYTES, SIZE, unpack_values

NAME: Final = "FP4"
BLOCK_SIZE: Final = SIZE
BLOCK_BYTES: Final = BYTES
_POSITIVE = (0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
TABLE: Final = _POSITIVE + tuple(-value for value in _POSITIVE)


def unpack(raw: Bytes) -> Float32:
    """(rows, 20 B) bytes -> (rows, 32 B)."""
    return unpack_values(raw, TABLE)
