"""Adapters that rows choose: sizes, and who chooses which of five."""

from typing import Any

import numpy as np
import pytest

from pagemill.ops.interface import Float32
from pagemill.ops.reference import ReferenceOps
from tests.ops.case import normal

ADAPTERS = 5
CHOSEN = {
    "mixed": [2, -1, 0, 0, 2, -1, 4],
    "none": [-1, -1],
    "one": [3],
    "all of one": [1] * 19,
    "nobody": [],
}
SIZES = [(5, 7, 1), (70, 600, 8), (33, 1030, 20)]  # outputs, inputs, rank


def all_cases(test: Any) -> Any:
    """A test of `chosen` and `sizes`."""
    chosen = pytest.mark.parametrize("chosen", CHOSEN.values(), ids=CHOSEN.keys())
    return chosen(pytest.mark.parametrize("sizes", SIZES, ids=str)(test))


def inputs(chosen: list[int], sizes: tuple[int, int, int]) -> tuple[Float32, ...]:
    """y, x, down, up, scales."""
    n, k, rank = sizes
    rng, rows = np.random.default_rng(n), len(chosen)
    shapes = [(rows, n), (rows, k), (ADAPTERS, rank, k), (ADAPTERS, n, rank), (ADAPTERS,)]
    return tuple(normal(rng, *shape) for shape in shapes)


def by_reference(chosen: list[int], sizes: tuple[int, int, int]) -> Float32:
    y, x, *parts = inputs(chosen, sizes)
    ops = ReferenceOps()
    out: Float32 = ops.adapt(y, x, ops.adapters(*parts), np.array(chosen, np.int32))
    return out
