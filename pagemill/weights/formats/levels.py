"""Tables of sixteen values that four-bit numbers stand for, where these are not evenly spaced."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagemill.weights.formats.blocks import Float32

# Finer around zero, where most weights are.
NON_LINEAR: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# Twice what the bits of a four-bit float (sign, two of exponent, one of mantissa) mean.
FLOAT4: Final = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def look_up(table: tuple[int, ...], numbers: NDArray[np.uint8], out: Float32) -> None:
    """Put the value of each number into `out`, which has as many elements."""
    values = np.array(table, np.float32)
    # All numbers are below 16, so nothing is clipped; numpy's check of bounds would need a copy.
    np.take(values, numbers.reshape(out.shape), out=out, mode="clip")
