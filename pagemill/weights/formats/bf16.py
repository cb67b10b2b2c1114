"""BF16: the upper half of an IEEE single, little-endian."""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import Bytes, Float32, pack_rows

NAME: Final = "BF16"
BLOCK_SIZE: Final = 1
BLOCK_BYTES: Final = 2


def unpack(raw: Bytes) -> Float32:
    """(rows, 2 K) bytes -> (rows, K)."""
    bits = np.ascontiguousarray(raw).view("<u2").astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


def pack(values: Float32) -> Bytes:
    """(rows, K) -> (rows, 2 K) bytes; ties go to even, NaN stays NaN."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(values: Float32) -> Bytes:
    bits = values.view(np.uint32)
    upper = bits >> 16
    nearest = bits + np.uint32(0x7FFF) + (upper & 1) >> 16
    # Adding could carry a NaN's payload into infinity: keep its upper half and make it quiet.
    kept = np.where(np.isnan(values), upper | 0x40, nearest)
    return kept.astype("<u2").view(np.uint8)
