"""Tables of sixteen values that four-bit numbers stand for, where these are not evenly spaced."""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagemill.weights.formats.blocks import Bytes, Float32

# Finer around zero, where most weights are.
NON_LINEAR: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# Twice what the bits of a four-bit float (sign, two of exponent, one of mantissa) mean.
FLOAT4: Final = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def look_up(table: tuple[int, ...], numbers: NDArray[np.uint8], out: Float32) -> None:
    """Put the value of each number into `out`, which has as many elements."""
    values = np.array(table, np.float32)
    # All numbers are below 16, so nothing is clipped; numpy's check of bounds would need a copy.
    np.take(values, numbers.reshape(out.shape), out=out, mode="clip")


def nearest_non_linear(values: Float32) -> Bytes:
    """The numbers of the values in NON_LINEAR that are nearest."""
    least, most = NON_LINEAR[0], NON_LINEAR[-1]
    half_steps = np.clip(values, least, most)
    half_steps -= np.float32(least)
    half_steps += half_steps
    return _nearest_of_half_steps()[half_steps.astype(np.intp)]


@cache
def _nearest_of_half_steps() -> Bytes:
    """For each half step from the least value up, the nearest value's number. The middle of two
    whole numbers is a whole number or a half, so all of a half step has one nearest."""
    levels = np.array(NON_LINEAR)
    middles = np.arange(0, 2 * (levels[-1] - levels[0]) + 1) / 2 + levels[0] + 0.25
    nearest: Bytes = np.abs(middles[:, None] - levels).argmin(axis=1).astype(np.uint8)
    return nearest
