"""MXFP4: blocks of 32 four-bit floats under one power of two: an element is v[q] * 2^(e - 128).

v is the table FLOAT4, which holds twice what the four bits mean. A block is e (1 byte), then 16
bytes: byte j holds element j in its low and j + 16 in its high half.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import Bytes, Float32, split_bits, unpack_rows
from pagemill.weights.formats.levels import FLOAT4, look_up

NAME: Final = "MXFP4"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 17


def unpack(raw: Bytes) -> Float32:
    """(rows, 17 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    look_up(FLOAT4, split_bits(blocks[:, 1:], 4, 16), out)
    out *= np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
