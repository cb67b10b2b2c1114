"""Rounding to eight-bit floats: every byte, every value half-way between two, and their edges."""

import numpy as np

from pagemill.weights.formats import fp8

LEVELS = fp8.table()[:127]
CODES = np.arange(127)


def test_every_byte_is_its_own_nearest() -> None:
    np.testing.assert_array_equal(fp8.nearest(LEVELS), CODES)
    np.testing.assert_array_equal(fp8.nearest(-LEVELS), CODES + 128)


def test_half_way_goes_to_the_even_byte() -> None:
    middles = (LEVELS[1:] + LEVELS[:-1]) / 2
    np.testing.assert_array_equal(fp8.nearest(middles), CODES[:-1] + CODES[:-1] % 2)
    below, above = (np.nextafter(middles, np.float32(end)) for end in (0, 1e9))
    np.testing.assert_array_equal(fp8.nearest(below), CODES[:-1])
    np.testing.assert_array_equal(fp8.nearest(above), CODES[1:])


def test_the_largest_is_the_end() -> None:
    np.testing.assert_array_equal(fp8.nearest(np.float32([449, 1e30, -np.inf])), [126, 126, 254])


def test_the_table() -> None:
    assert (LEVELS[1], LEVELS[8], LEVELS[56], LEVELS[126]) == (2**-9, 2**-6, 1.0, 448.0)
    assert (np.diff(LEVELS) > 0).all()
    assert np.isnan(fp8.table()[[127, 255]]).all()
