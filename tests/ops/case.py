"""What a case of the table is, and what cases are made of."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill.ops.interface import Array, Float32, Ops, Step, Weight
from pagemill.ops.reference import ReferenceOps
from pagemill.weights import formats
from tests.golden.random_blocks import MASKS, OTHER_MASKS

ROUNDED_ACTIVATIONS = 2e-2
EXACT = 1e-5
HALF_KV = 2e-3  # a backend may keep keys and values in half precision

Outputs = list[NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One call. `tolerance` is relative to the largest magnitude of each float result; integer
    results must be equal."""

    name: str
    op: str
    call: Callable[[Ops, np.random.Generator], Outputs]
    tolerance: float = EXACT
    page_size: int = 0  # of cases with pages: not every backend takes every size

    def outputs(self, ops: Ops) -> Outputs:
        """Results on a backend; equal inputs every time."""
        return self.call(ops, np.random.default_rng(zlib.crc32(self.name.encode())))


def check(
    case: Case, ops: Ops, reference: Ops | None = None, tolerance: float | None = None
) -> None:
    """Assert that `ops` agrees with the reference; or with one that rounds what `ops` does."""
    tolerance = tolerance or case.tolerance
    for got, want in zip(case.outputs(ops), case.outputs(reference or ReferenceOps()), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        if np.issubdtype(want.dtype, np.integer):
            np.testing.assert_array_equal(got, want, case.name)
        else:
            scale = float(np.abs(want).max(initial=0)) or 1.0
            np.testing.assert_allclose(got, want, 0, tolerance * scale, err_msg=case.name)


def weight(rng: np.random.Generator, k: int, *parts: tuple[str, int]) -> Weight:
    """Random rows of K elements, as (format, rows) parts, in the bytes of a file."""
    packed = tuple(_stored(rng, name, rows, k) for name, rows in parts)
    rows = tuple(rows for _, rows in parts)
    return Weight((sum(rows), k), tuple(name for name, _ in parts), packed, rows)


def _stored(rng: np.random.Generator, name: str, rows: int, k: int) -> NDArray[np.uint8]:
    """Normal numbers where they can be packed; else random bits, all but the exponents."""
    if name in formats.packing_names():
        return formats.get_packing(name).pack(normal(rng, rows, k) / np.float32(k**0.5))
    form = formats.get(name)
    blocks = rng.integers(0, 256, (rows * k // form.BLOCK_SIZE, form.BLOCK_BYTES), np.uint8)
    for at, (kept, set_) in (MASKS | OTHER_MASKS)[name].items():
        blocks[:, at] = blocks[:, at] & kept | set_
    return blocks.reshape(rows, -1)


def normal(rng: np.random.Generator, *shape: int) -> Float32:
    return rng.normal(size=shape).astype(np.float32)


def ragged_step(
    lens: list[int], takes: list[int], pages: NDArray[np.int32], page_size: int
) -> Step:
    """Rows that have `lens` tokens and bring `takes` more; each has its own run of `pages`."""
    per_row = len(pages) // len(lens)
    table = pages[: per_row * len(lens)].reshape(len(lens), per_row)
    ends = [a + b for a, b in zip(lens, takes, strict=True)]
    positions = np.concatenate(
        [np.arange(a, b, dtype=np.int32) for a, b in zip(lens, ends, strict=True)]
    )
    rows = np.repeat(np.arange(len(lens)), takes)
    row_starts = np.array([0, *accumulate(takes)], np.int32)
    return Step(
        token_ids=np.zeros(len(positions), np.int32),
        positions=positions,
        slots=table[rows, positions // page_size] * page_size + positions % page_size,
        row_starts=row_starts,
        kv_lens=np.array(ends, np.int32),
        page_table=np.ascontiguousarray(table),
        out_rows=row_starts[1:] - 1,
        page_size=page_size,
    )


def whole_step(lens: list[int], **fields: Any) -> Step:
    """Rows that are whole texts of these lengths; each of them is an output."""
    pages = np.arange(len(lens) * -(-max(lens) // 16), dtype=np.int32)
    step = ragged_step([0] * len(lens), lens, pages, 16)
    return replace(step, **fields)


def compiled(ops: Ops, model: Callable[[Step, Array], Array], step: Step) -> NDArray[Any]:
    """The result of a model on a step, as a backend prepares models."""
    kv = ops.new_kv(1, max(1, step.page_table.size), 16, 1, 16)
    return np.array(ops.compile(model)(step, kv))
