"""Rows whose histories begin with the same pages attend together: the same bytes as alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from pagemill.ops.interface import Array, Float32, Scoring, Step
from tests.ops.case import normal

_native = pytest.importorskip("pagemill._native", reason="the native kernels are not built")
cpu = pytest.importorskip("pagemill.ops.cpu")

NUM_SLOTS = 8192


@dataclass(frozen=True)
class Row:
    """A sequence that shares the first `shared` pages of the row `of`, if any, has `length` tokens
    and brings `take` more."""

    length: int
    take: int = 1
    of: int = 0
    shared: int = 0


def tables(rows: Sequence[Row], page_size: int) -> list[list[int]]:
    """The pages of each row, scattered over the cache."""
    free = iter(np.random.default_rng(1).permutation(NUM_SLOTS // page_size).tolist())
    made: list[list[int]] = []
    for row in rows:
        pages = made[row.of][: row.shared] if row.shared else []
        need = -(-(row.length + row.take) // page_size)
        made.append(pages + [next(free) for _ in range(need - len(pages))])
    return made


def step_of(rows: Sequence[Row], pages: Sequence[list[int]], page_size: int) -> Step:
    table = np.zeros((len(rows), max(map(len, pages))), np.int32)
    for i, row in enumerate(pages):
        table[i, : len(row)] = row
    positions = np.concatenate([np.arange(r.length, r.length + r.take) for r in rows])
    of = np.repeat(np.arange(len(rows)), [row.take for row in rows])
    row_starts = np.cumsum([0, *(row.take for row in rows)]).astype(np.int32)
    return Step(
        token_ids=np.zeros(len(of), np.int32),
        positions=positions.astype(np.int32),
        slots=table[of, positions // page_size] * page_size
        + (positions % page_size).astype(np.int32),
        row_starts=row_starts,
        kv_lens=np.array([row.length + row.take for row in rows], np.int32),
        page_table=table,
        out_rows=row_starts[1:] - 1,
        page_size=page_size,
    )


@dataclass
class Layer:
    """One layer with its cache; whoever stores keys and values of a slot stores the same."""

    ops: cpu.CpuOps
    heads: tuple[int, int]
    dim: int
    scoring: Scoring
    page_size: int

    def __post_init__(self) -> None:
        rng, (heads, kv_heads) = np.random.default_rng(2), self.heads
        self.kv = self.ops.new_kv(
            1, NUM_SLOTS // self.page_size, self.page_size, kv_heads, self.dim
        )
        self.keys, self.values = normal(rng, 2, NUM_SLOTS, kv_heads, self.dim)
        self.sinks: Array | None = (
            self.ops.vector(normal(rng, heads)) if self.scoring.window else None
        )
        everything = Row(0, NUM_SLOTS)
        self.attend([everything], [list(range(NUM_SLOTS // self.page_size))], fill=True)

    def attend(
        self, rows: Sequence[Row], pages: Sequence[list[int]], fill: bool = False
    ) -> Float32:
        step = step_of(rows, pages, self.page_size)
        rng = np.random.default_rng(3)
        every = normal(rng, 1 if fill else 64, self.heads[0], self.dim)
        q = every[(step.slots + step.positions) % len(every)]
        scoring = Scoring(1.0, 1) if fill else self.scoring
        k, v = self.keys[step.slots], self.values[step.slots]
        return np.asarray(self.ops.attention(q, k, v, self.kv[0], step, scoring, self.sinks))

    def check(self, rows: Sequence[Row]) -> None:
        """All rows together give what each gives alone."""
        pages = tables(rows, self.page_size)
        together, start = self.attend(rows, pages), 0
        for row, own in zip(rows, pages, strict=True):
            part = slice(start, start + row.take)
            np.testing.assert_array_equal(together[part], self.attend([row], [own]), f"{row}")
            start += row.take


@pytest.fixture(params=_native.instruction_sets())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def family(count: int, shared: int, *, of: int = 0, length: int, take: int = 1) -> list[Row]:
    """Rows that share pages with row `of`, each a little longer than the one before."""
    return [Row(length + 3 * i, take, of, shared) for i in range(count)]


SHAPES = {
    "more than a block": [Row(90), *family(19, 3, length=60)],
    "nested": [
        Row(100),
        *family(3, 5, length=90),
        *family(4, 2, length=50),
        *family(2, 4, length=70),
    ],
    "nested in another order": [
        Row(100),
        Row(50, 1, 0, 2),
        Row(90, 1, 0, 5),
        Row(45, 1, 1, 2),
        Row(85),
    ],
    "families": [Row(70), *family(5, 3, length=64), Row(200), *family(9, 12, of=6, length=200)],
    "strangers": [Row(20 + 7 * i) for i in range(12)],
    "nothing but one token of its own": [Row(48), *[Row(48, 1, 0, 3) for _ in range(9)]],
    "prompts beside answers": [
        *[Row(80), Row(80, 40, 0, 5), Row(0, 30), Row(81, 1, 0, 5), Row(88, 7, 0, 5)],
        *[Row(95, 1, 0, 5), Row(80, 2, 0, 5), Row(64, 33, 0, 4), Row(130, 1, 1, 7)],
    ],
}


@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "q8"])
@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (7, 1), (20, 1)], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_sharing(isa: str, name: str, heads: tuple[int, int], kv_dtype: str) -> None:
    ops = cpu.CpuOps(threads=2, isa=isa, kv_dtype=kv_dtype)
    Layer(ops, heads, 24, Scoring(0.3), 16).check(SHAPES[name])


@pytest.mark.parametrize("page_size", [16, 32, 64])
@pytest.mark.parametrize(
    "scoring",
    [Scoring(0.2), Scoring(0.3, window=60), Scoring(0.3, window=1500), Scoring(0.4, softcap=2.0)],
    ids=lambda scoring: f"window {scoring.window} cap {scoring.softcap}",
)
def test_over_segments(isa: str, scoring: Scoring, page_size: int) -> None:
    """What is shared ends before, at and behind the ends of segments; so does what is not."""
    part = 1024 // page_size
    rows = [Row(2100), Row(1100, 1, 0, part), Row(1030, 1, 0, part), Row(1500, 3, 0, part + 2)]
    rows += [Row(2150, 1, 0, 2 * part), Row(1024, 1, 0, part), Row(2049, 1, 0, 2 * part)]
    rows += [Row(900, 1, 0, 192 // page_size), Row(1023, 2, 0, part - 1)]
    Layer(cpu.CpuOps(2, isa, "f16"), (6, 2), 40, scoring, page_size).check(rows)
    Layer(cpu.CpuOps(1, isa, "q8"), (3, 1), 144, scoring, page_size).check(rows)


@pytest.mark.parametrize("seed", range(12))
def test_steps_at_random(isa: str, seed: int) -> None:
    """Prefixes of prefixes, some rows with several tokens, on any number of threads."""
    rng = np.random.default_rng(seed)
    page_size = int(rng.choice([16, 32, 64]))
    rows: list[Row] = []
    for i in range(int(rng.integers(2, 26))):
        of = int(rng.integers(0, max(i, 1)))
        shared = int(rng.integers(0, rows[of].length // page_size + 1)) if i else 0
        length = shared * page_size + int(rng.integers(0, 120))
        rows.append(Row(length, int(rng.choice([1, 1, 1, 2, 17])), of, shared))
    kv_heads, group, dim = (
        int(rng.choice(sizes)) for sizes in ([1, 2, 3], [1, 2, 3, 4, 9], [16, 80])
    )
    scoring = Scoring(0.3, window=int(rng.choice([0, 100])))
    ops = cpu.CpuOps(int(rng.integers(1, 4)), isa, str(rng.choice(["f16", "f32", "q8"])))
    Layer(ops, (group * kv_heads, kv_heads), dim, scoring, page_size).check(rows)
