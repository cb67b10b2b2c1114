"""Matrices of small whole numbers under scales and zero points: (q - z) * s, in our formats.

GPTQ, AWQ, LLM.int8 and compressed-tensors store these, each packed in its own way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagemill.ops.interface import Float32, Order
from pagemill.weights.formats import f32, int4, int8, q4_0, q8_0
from pagemill.weights.source import Rows

BLOCK: Final = 32
_FEW_BITS = 4
_MIDDLE_OF_FEW = 8  # the zero point that Q4_0 has
_SLAB_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Affine:
    """A matrix (N, K). Scales and zero points are (N, G); input k belongs to group k // (K / G),
    or to groups[k]."""

    quants: NDArray[np.uint8]
    scales: Float32
    zeros: NDArray[np.uint16]
    bits: int
    groups: NDArray[np.intp] | None = None


def nominal(bits: int, inputs: int, group_size: int) -> str:
    """The format whose rows are as long as those that `rows` will give."""
    if inputs % BLOCK:
        return f32.NAME
    if group_size % BLOCK:
        return q8_0.NAME
    return int4.NAME if bits <= _FEW_BITS else int8.NAME


def rows(matrix: Affine) -> Rows:
    """In a format of GGUF where that is exact, else in INT4 or INT8, which always are; where inputs
    of one block belong to several groups, in the nearest Q8_0 (see `sorting`)."""
    inputs, count = matrix.quants.shape[1], matrix.scales.shape[1]
    if inputs % BLOCK:
        return f32.NAME, _slabs(matrix, lambda slab: f32.pack(values(slab)))
    if matrix.groups is not None or inputs // count % BLOCK:
        return q8_0.NAME, _slabs(matrix, lambda slab: q8_0.pack(values(slab)))
    few = matrix.bits <= _FEW_BITS
    # GGUF's zero points are in the middle; all others must be equal to be moved there.
    zero = int(matrix.zeros.flat[0])
    shift = (_MIDDLE_OF_FEW if few else int8.MIDDLE) - zero
    fits = shift >= 0 and (1 << matrix.bits) - 1 + shift < 1 << (_FEW_BITS if few else 8)
    with np.errstate(over="ignore"):
        halves = np.array_equal(matrix.scales.astype(np.float16), matrix.scales)
    if halves and fits and (matrix.zeros == zero).all():
        if few:
            return q4_0.NAME, _slabs(matrix, lambda slab: _q4_0(slab, shift))
        return q8_0.NAME, _slabs(matrix, lambda slab: _q8_0(slab, shift))
    return (int4.NAME, _slabs(matrix, _int4)) if few else (int8.NAME, _slabs(matrix, _int8))


def sorting(groups: NDArray[np.intp] | None, count: int) -> Order | None:
    """The inputs sorted by their group, of `count`; None where they are so already, or where groups
    are not whole blocks of equal size."""
    if groups is None:
        return None
    size = len(groups) // count
    if size % BLOCK or (np.bincount(groups, minlength=count) != size).any():
        return None
    return np.argsort(groups, kind="stable").astype(np.int32)


def sort(matrix: Affine, order: Order) -> Affine:
    """The matrix with its inputs in the order of `sorting`."""
    return replace(matrix, quants=np.ascontiguousarray(matrix.quants[:, order]), groups=None)


def values(matrix: Affine) -> Float32:
    """What the matrix means."""
    inputs, count = matrix.quants.shape[1], matrix.scales.shape[1]
    groups = matrix.groups
    if groups is None:
        groups = np.arange(inputs) // (inputs // count)
    out = matrix.quants.astype(np.float32)
    out -= matrix.zeros[:, groups]
    out *= matrix.scales[:, groups]
    return out


def _slabs(matrix: Affine, convert: Callable[[Affine], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Some rows at a time, so that little more memory is needed than the result takes."""
    return np.concatenate([convert(slab) for slab in _cut(matrix)])


def _cut(matrix: Affine) -> Iterator[Affine]:
    step = max(1, _SLAB_ELEMENTS // matrix.quants.shape[1])
    for start in range(0, len(matrix.quants), step):
        part = slice(start, start + step)
        yield replace(
            matrix,
            quants=matrix.quants[part],
            scales=matrix.scales[part],
            zeros=matrix.zeros[part],
        )


def _of_blocks(matrix: Affine) -> tuple[Float32, NDArray[np.uint16]]:
    """Scales and zero points of blocks instead of groups."""
    each = matrix.quants.shape[1] // matrix.scales.shape[1] // BLOCK
    return matrix.scales.repeat(each, axis=1), matrix.zeros.repeat(each, axis=1)


def _int8(matrix: Affine) -> NDArray[np.uint8]:
    return int8.from_parts(matrix.quants, *_of_blocks(matrix))


def _int4(matrix: Affine) -> NDArray[np.uint8]:
    scales, zeros = _of_blocks(matrix)
    return int4.from_parts(matrix.quants, scales, zeros.astype(np.uint8))


def _q8_0(matrix: Affine, shift: int) -> NDArray[np.uint8]:
    signed = matrix.quants + np.uint8(shift) ^ np.uint8(int8.MIDDLE)  # as two's complement
    return q8_0.from_parts(signed, _of_blocks(matrix)[0])


def _q4_0(matrix: Affine, shift: int) -> NDArray[np.uint8]:
    return q4_0.from_parts(matrix.quants + np.uint8(shift), _of_blocks(matrix)[0])
