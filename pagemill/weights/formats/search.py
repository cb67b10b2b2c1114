"""How K-quants are packed: scales by least squares over a few roundings, in two levels.

For each group of a block, several roundings of its elements to integers are tried, a little finer
and a little coarser than their range suggests. For each rounding the best scale (and minimum)
follow in closed form from sums of products; the rounding whose weighted squared error is least
wins. An error counts the more the larger its element is; how much more was found by trying. Then
the scales of a block become integers under a scale of their own, and the elements are rounded once
more under what these integers mean.

In the search, arrays are (elements of a group, groups): numpy then works along the groups, of which
there are many.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagemill.weights.formats.blocks import Float32, inverse

# A trial is what is added to the number of steps that a group's range is divided into.
_TRIALS: Final = tuple(tenths / 10 for tenths in range(-14, 8, 2))


class Packed(NamedTuple):
    """Blocks as integers: an element is q * (d * s) - (dmin * m)."""

    d: Float32  # (n, 1), of half precision
    scales: NDArray[np.int8]  # s, (n, groups)
    quants: NDArray[np.int8]  # q, (n, block)
    dmin: Float32  # as d
    minimums: NDArray[np.int8]  # m, as s


def fit_with_minimums(blocks: Float32, group: int, most: int, most_scale: int) -> Packed:
    """For q from 0 to `most`, and s and m from 0 to `most_scale`."""
    values = _columns(blocks, group)
    mean_square: Float32 = np.mean(values * values, axis=0)
    weights = np.abs(values) + np.sqrt(mean_square)
    scales, minimums = _scales_and_minimums(values, weights, most)
    d, whole_scales = _to_integers(scales.reshape(len(blocks), -1), 0, most_scale)
    dmin, whole_minimums = _to_integers(minimums.reshape(len(blocks), -1), 0, most_scale)
    lifted = blocks.reshape(len(blocks), -1, group) + (dmin * whole_minimums)[:, :, None]
    quants = _quantize(lifted, d * whole_scales, 0, most)
    return Packed(d, whole_scales, quants.reshape(blocks.shape), dmin, whole_minimums)


def fit(blocks: Float32, group: int, most: int, most_scale: int) -> Packed:
    """For q from -most to most - 1, s from -most_scale to most_scale - 1, and no minimum."""
    values = _columns(blocks, group)
    weights = values * values
    weights += np.mean(weights, axis=0)
    scales = _scales(values, weights, most)
    d, whole = _to_integers(scales.reshape(len(blocks), -1), -most_scale, most_scale - 1)
    groups = blocks.reshape(len(blocks), -1, group)
    quants = _quantize(groups, d * whole, -most, most - 1)
    nothing = np.zeros_like(d)
    return Packed(d, whole, quants.reshape(blocks.shape), nothing, np.zeros_like(whole))


def _columns(blocks: Float32, group: int) -> Float32:
    """(n, block) -> (group, groups of all)"""
    return np.ascontiguousarray(blocks.reshape(-1, group).T)


def _scales(values: Float32, weights: Float32, most: int) -> Float32:
    """(groups,): the scale s that brings q * s closest to the values.

    The element farthest from zero becomes negative, where there is one step more: a scale may be
    negative for that.
    """
    step = inverse(-_farthest(values))
    weighted = weights * values
    scales, best = np.zeros_like(step), np.zeros_like(step)
    quants, products = np.empty_like(values), np.empty_like(values)
    for trial in _TRIALS:
        np.multiply(values, step * np.float32(most + trial), out=quants)
        np.clip(np.rint(quants, out=quants), -most, most - 1, out=quants)
        qx = np.einsum("ij,ij->j", weighted, quants)
        qq = np.einsum("ij,ij->j", np.multiply(weights, quants, out=products), quants)
        scale = qx * inverse(qq)
        gain = scale * qx  # how much the squared error is below that of all zeros
        scales, best = np.where(gain > best, scale, scales), np.maximum(gain, best)
    return scales


def _scales_and_minimums(values: Float32, weights: Float32, most: int) -> tuple[Float32, Float32]:
    """(groups,) each: the scale s and the minimum m, neither negative, that bring q * s - m closest
    to the values."""
    low = np.minimum(values.min(axis=0), 0)
    step = inverse(values.max(axis=0) - low)
    points = _Points(values, weights, most)
    best = _Lines(np.zeros_like(low), low, np.full_like(low, -np.inf))
    for trial in _TRIALS:
        best = best.or_better(points.fit(step * np.float32(most + trial), low))
    best = best.or_better(points.fit(inverse(best.slope), best.height))
    return best.slope, -best.height


class _Lines(NamedTuple):
    """A straight line for each group, (groups,): value = slope * q + height."""

    slope: Float32
    height: Float32
    gain: Float32  # how much its squared error is below that of a flat line

    def or_better(self, other: "_Lines") -> "_Lines":
        better = other.gain > self.gain
        return _Lines(*(np.where(better, new, old) for new, old in zip(other, self, strict=True)))


class _Points:
    """The weighted values of the groups, to fit lines to once they are rounded."""

    def __init__(self, values: Float32, weights: Float32, most: int) -> None:
        self._values, self._weights, self._most = values, weights, most
        self._weight = weights.sum(axis=0)
        self._per_weight = inverse(self._weight)
        self._mean = np.einsum("ij,ij->j", weights, values) * self._per_weight
        self._weighted = weights * (values - self._mean)
        self._quants, self._products = np.empty_like(values), np.empty_like(values)

    def fit(self, step: Float32, low: Float32) -> _Lines:
        """The best lines that rise and whose height is not positive, for values rounded to whole
        steps above `low`, of which there are `step` to one."""
        quants, mean = self._quants, self._mean
        np.subtract(self._values, low, out=quants)
        quants *= step
        np.clip(np.rint(quants, out=quants), 0, self._most, out=quants)
        np.multiply(self._weights, quants, out=self._products)
        q = self._products.sum(axis=0)
        qq = np.einsum("ij,ij->j", self._products, quants)
        # Around the means: differences of large sums would drown what the roundings differ by.
        covariance = np.einsum("ij,ij->j", self._weighted, quants)
        slope = covariance * inverse(qq - q * q * self._per_weight)
        height = mean - slope * q * self._per_weight
        gain = slope * covariance
        if (positive := height > 0).any():  # these have to go through zero
            qx = covariance + q * mean
            steeper = qx * inverse(qq)
            slope = np.where(positive, steeper, slope)
            gain = np.where(positive, steeper * qx - mean * mean * self._weight, gain)
        return _Lines(slope, np.minimum(height, 0), np.where(slope > 0, gain, -np.inf))


def _to_integers(values: Float32, least: int, most: int) -> tuple[Float32, NDArray[np.int8]]:
    """Numbers of a block (n, groups) as integers in least to most under a scale of their own: that
    scale (n, 1), of half precision, and the integers.

    The number farthest from zero becomes `least`, or `most` if none may be negative.
    """
    scale = _farthest(values.T)[:, None] / np.float32(least or most)
    scale = scale.astype("<f2").astype(np.float32)
    whole = np.clip(np.rint(values * inverse(scale)), least, most)
    return scale, whole.astype(np.int8)


def _quantize(groups: Float32, scales: Float32, least: int, most: int) -> NDArray[np.int8]:
    """Elements (n, groups, group) as the nearest integers under their group's scale."""
    scaled = groups * inverse(scales)[:, :, None]
    np.clip(np.rint(scaled, out=scaled), least, most, out=scaled)
    return scaled.astype(np.int8)


def _farthest(values: Float32) -> Float32:
    """Of each column, the element farthest from zero, with its sign."""
    at = np.abs(values).argmax(axis=0)[None]
    found: Float32 = np.take_along_axis(values, at, axis=0)[0]
    return found
