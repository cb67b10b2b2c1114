"""NF4: blocks of 32 four-bit numbers under a scale s; an element is v[q] * s.

v is a table of sixteen values between which as much of a normal distribution lies (Dettmers et al.,
QLoRA, 2023). `tables.py` says how a block is laid out.
"""

from typing import Final

from pagemill.weights.formats.blocks import Bytes, Float32
from pagemill.weights.formats.tables import BYTES, SIZE, unpack_values

NAME: Final = "NF4"
BLOCK_SIZE: Final = SIZE
BLOCK_BYTES: Final = BYTES
TABLE: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def unpack(raw: Bytes) -> Float32:
    """(rows, 20 B) bytes -> (rows, 32 B)."""
    return unpack_values(raw, TABLE)
