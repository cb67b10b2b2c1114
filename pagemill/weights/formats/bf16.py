"""BF16: the upper half of an IEEE single, little-endian."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAME: Final = "BF16"
BLOCK_SIZE: Final = 1
BLOCK_BYTES: Final = 2


def unpack(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(rows, 2 K) bytes -> (rows, K)."""
    bits = np.ascontiguousarray(raw).view("<u2").astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(rows, K) -> (rows, 2 K) bytes; ties go to even, NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Adding could carry a NaN's payload into infinity: keep its upper half and make it quiet.
    kept = np.where(np.isnan(values), (bits >> 16) | 0x40, nearest)
    return np.ascontiguousarray(kept.astype("<u2")).view(np.uint8)
