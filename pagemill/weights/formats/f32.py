"""F32: IEEE single precision, little-endian."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

NAME: Final = "F32"
BLOCK_SIZE: Final = 1
BLOCK_BYTES: Final = 4


def unpack(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(rows, 4 K) bytes -> (rows, K)."""
    return np.ascontiguousarray(raw).view("<f4").astype(np.float32)


def pack(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(rows, K) -> (rows, 4 K) bytes."""
    return np.ascontiguousarray(values, dtype="<f4").view(np.uint8)
