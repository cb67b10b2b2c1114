"""F16: IEEE half precision, little-endian."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAME: Final = "F16"
BLOCK_SIZE: Final = 1
BLOCK_BYTES: Final = 2


def unpack(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(rows, 2 K) bytes -> (rows, K)."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(rows, K) -> (rows, 2 K) bytes; ties go to even, what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.astype("<f2")).view(np.uint8)
