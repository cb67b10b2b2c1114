"""NVFP4: blocks of 64 four-bit floats in four groups of 16: an element is v[q] * s / 2.

v is the table FLOAT4, which holds twice what the four bits mean; s is its group's byte as a float
of four bits of exponent (bias 7) and three of mantissa, whose sign bit is not used and whose
largest pattern, 127, counts as zero. A block is s (4 bytes), then 8 bytes for each group: byte j
holds element j in its low and j + 8 in its high half.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import Bytes, Float32, split_bits, unpack_rows
from pagemill.weights.formats.levels import FLOAT4, look_up

NAME: Final = "NVFP4"
BLOCK_SIZE: Final = 64
BLOCK_BYTES: Final = 36


def unpack(raw: Bytes) -> Float32:
    """(rows, 36 B) bytes -> (rows, 64 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    look_up(FLOAT4, split_bits(blocks[:, 4:], 4, 8), out)
    groups = out.reshape(-1, 4, 16)
    groups *= _half_of_scales(blocks[:, :4])[:, :, None]


def _half_of_scales(raw: Bytes) -> Float32:
    mantissa = (raw & 7).astype(np.float32)
    exponent = (raw >> 3 & 15).astype(np.int32)
    mantissa += np.where(
        exponent > 0, np.float32(8), np.float32(0)
    )  # the leading bit of normal ones
    values: Float32 = np.ldexp(mantissa, np.maximum(exponent, 1) - 7 - 3 - 1)
    values[raw == 127] = 0
    return values
