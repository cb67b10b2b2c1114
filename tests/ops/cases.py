"""One table of cases for every operation, for any backend: correctness, benchmarks, support matrix.

A case builds its inputs from its own name, calls one operation on the given `Ops` and returns plain
arrays. Shapes are odd on purpose. `check` compares a backend with the reference.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill.ops.interface import Float32, Ops, Rope, SampleRows, Scoring, Step, Weight
from pagemill.ops.reference import ReferenceOps
from pagemill.weights import formats

DENSE = ("F32", "F16", "BF16")
BLOCKS = ("Q8_0", "Q4_0", "Q4_1")  # a backend may round activations to int8 beside these
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


def check(case: Case, ops: Ops) -> None:
    """Assert that `ops` agrees with the reference."""
    for got, want in zip(case.outputs(ops), case.outputs(ReferenceOps()), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        if np.issubdtype(want.dtype, np.integer):
            np.testing.assert_array_equal(got, want, case.name)
        else:
            scale = float(np.abs(want).max(initial=0)) or 1.0
            np.testing.assert_allclose(got, want, 0, case.tolerance * scale, err_msg=case.name)


def weight(rng: np.random.Generator, k: int, *parts: tuple[str, int]) -> Weight:
    """Random rows of K elements, as (format, rows) parts, in the bytes of a file."""
    packed = tuple(
        formats.get(name).pack(normal(rng, rows, k) / np.float32(k**0.5)) for name, rows in parts
    )
    rows = tuple(rows for _, rows in parts)
    return Weight((sum(rows), k), tuple(name for name, _ in parts), packed, rows)


def normal(rng: np.random.Generator, *shape: int) -> Float32:
    return rng.normal(size=shape).astype(np.float32)


def all_cases() -> list[Case]:
    """The table."""
    return [
        *_embed_cases(),
        *_linear_cases(),
        *_rowwise_cases(),
        *_rope_cases(),
        *_attention_cases(),
        *_sample_cases(),
    ]


def _embed_cases() -> Iterator[Case]:
    for name in (*DENSE, *BLOCKS):

        def call(ops: Ops, rng: np.random.Generator, name: str = name) -> Outputs:
            table = ops.upload(weight(rng, 96, (name, 37)), table=True)
            ids = np.array([0, 36, 5, 5, 17], np.int32)
            return [np.asarray(ops.embed(ids, table))]

        yield Case(f"embed {name}", "embed", call)


def _linear_cases() -> Iterator[Case]:
    shapes = [(1, 32, 5), (1, 288, 7), (3, 64, 33), (17, 96, 50), (66, 32, 130)]  # T, K, N
    odd = [(1, 1, 1), (2, 5, 3), (19, 77, 41)]
    for name in (*DENSE, *BLOCKS):
        for num_tokens, k, n in shapes + (odd if name in DENSE else []):

            def call(
                ops: Ops,
                rng: np.random.Generator,
                name: str = name,
                size: tuple[int, int, int] = (num_tokens, k, n),
            ) -> Outputs:
                matrix = ops.upload(weight(rng, size[1], (name, size[2])))
                return [np.asarray(ops.linear(normal(rng, size[0], size[1]), matrix))]

            tolerance = EXACT if name in DENSE else ROUNDED_ACTIVATIONS
            yield Case(f"linear {name} {num_tokens}x{k}x{n}", "linear", call, tolerance)
    for parts in [
        (("Q8_0", 48), ("Q8_0", 16), ("Q8_0", 16)),
        (("Q4_1", 40), ("Q4_1", 24), ("Q8_0", 24)),
        (("F32", 5), ("F16", 3)),
    ]:

        def fused(
            ops: Ops, rng: np.random.Generator, parts: tuple[tuple[str, int], ...] = parts
        ) -> Outputs:
            matrix = ops.upload(weight(rng, 64, *parts))
            return [np.asarray(ops.linear(normal(rng, 3, 64), matrix))]

        names = "+".join(name for name, _ in parts)
        yield Case(f"linear fused {names}", "linear", fused, ROUNDED_ACTIVATIONS)


def _rowwise_cases() -> Iterator[Case]:
    for shape in [(1, 1), (3, 7), (5, 576), (2, 3, 64)]:

        def norm(ops: Ops, rng: np.random.Generator, shape: tuple[int, ...] = shape) -> Outputs:
            scale = ops.vector(normal(rng, shape[-1]))
            return [np.asarray(ops.rms_norm(normal(rng, *shape), scale, 1e-5))]

        yield Case(f"rms_norm {shape}", "rms_norm", norm)
    for shape in [(1, 2), (3, 14), (5, 3072)]:

        def gated(ops: Ops, rng: np.random.Generator, shape: tuple[int, ...] = shape) -> Outputs:
            x = normal(rng, *shape) * 4
            x[0, 0] = -200  # exp overflows on the way to silu = 0
            return [np.asarray(ops.act_mul(x, "silu"))]

        yield Case(f"act_mul silu {shape}", "act_mul", gated)


def _rope_cases() -> Iterator[Case]:
    for heads, dim, rotary in [(1, 2, 2), (3, 64, 64), (9, 80, 32)]:

        def call(
            ops: Ops,
            rng: np.random.Generator,
            size: tuple[int, int, int] = (heads, dim, rotary),
        ) -> Outputs:
            heads, dim, rotary = size
            rope = Rope(tuple(10000.0 ** (-i / (rotary / 2)) for i in range(rotary // 2)))
            positions = np.array([0, 1, 7, 4000], np.int32)
            return [np.asarray(ops.rope(normal(rng, 4, heads, dim), positions, rope))]

        yield Case(f"rope {heads}x{dim} rotary {rotary}", "rope", call, 1e-4)


def _attention_cases() -> Iterator[Case]:
    mixed = ((0, 5), (0, 1), (0, 18), (0, 2))
    for page_size in (1, 4, 16, 48):
        for heads, kv_heads, dim in [(1, 1, 8), (9, 3, 64), (4, 4, 16), (8, 2, 80)]:

            def call(
                ops: Ops,
                rng: np.random.Generator,
                page_size: int = page_size,
                size: tuple[int, int, int] = (heads, kv_heads, dim),
            ) -> Outputs:
                heads, kv_heads, dim = size
                num_pages = 4 * -(-32 // page_size)
                kv = ops.new_kv(2, num_pages, page_size, kv_heads, dim)
                pages = rng.permutation(num_pages).astype(np.int32)
                outputs: Outputs = []
                lens = [0] * len(mixed)
                for takes in ([n for _, n in mixed], [1, 1, 1, 1], [1, 7, 3, 1]):
                    step = ragged_step(lens, takes, pages, page_size)
                    q = normal(rng, len(step.positions), heads, dim)
                    k, v = normal(rng, 2, len(step.positions), kv_heads, dim)
                    y = ops.attention(q, k, v, kv[1], step, Scoring(dim**-0.5))
                    outputs.append(np.asarray(y))
                    lens = [a + b for a, b in zip(lens, takes, strict=True)]
                return outputs

            name = f"attention page {page_size}, {heads}/{kv_heads} heads of {dim}"
            yield Case(name, "attention", call, HALF_KV, page_size)

        def shared(ops: Ops, rng: np.random.Generator, page_size: int = page_size) -> Outputs:
            """Six rows attend to a page that the row in their midst fills in this very step."""
            kv = ops.new_kv(1, 8, page_size, 2, 16)
            takes = [1, 1, 1, page_size, 1, 1, 1]
            starts = [0 if take == page_size else page_size for take in takes]
            step = ragged_step(starts, takes, np.arange(14, dtype=np.int32), page_size)
            own = np.array([[7, page] for page in range(7)], np.int32)  # all begin with page 7
            rows = np.repeat(np.arange(7), takes)
            slots = own[rows, step.positions // page_size] * page_size
            step = replace(step, page_table=own, slots=slots + step.positions % page_size)
            q = normal(rng, len(rows), 6, 16)
            k, v = normal(rng, 2, len(rows), 2, 16)
            return [np.asarray(ops.attention(q, k, v, kv[0], step, Scoring(0.25)))]

        if page_size > 1:
            name = f"attention page {page_size}, filled and shared in one step"
            yield Case(name, "attention", shared, HALF_KV, page_size)


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


@dataclass(frozen=True)
class Knobs:
    """One sampled row, for building SampleRows by hand."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    position: int = 0
    num_logprobs: int = -1
    edits: tuple[tuple[int, float, float], ...] = ()  # (id, mul, add)


def sample_rows(knobs: list[Knobs]) -> SampleRows:
    """The flat arrays of some rows."""
    edits = [edit for row in knobs for edit in row.edits]
    return SampleRows(
        temperature=np.array([row.temperature for row in knobs], np.float32),
        top_k=np.array([row.top_k for row in knobs], np.int32),
        top_p=np.array([row.top_p for row in knobs], np.float32),
        min_p=np.array([row.min_p for row in knobs], np.float32),
        seeds=np.array([row.seed for row in knobs], np.uint64),
        positions=np.array([row.position for row in knobs], np.int32),
        num_logprobs=np.array([row.num_logprobs for row in knobs], np.int32),
        edit_starts=np.array([0, *accumulate(len(row.edits) for row in knobs)], np.int32),
        edit_ids=np.array([id_ for id_, _, _ in edits], np.int32),
        edit_mul=np.array([mul for _, mul, _ in edits], np.float32),
        edit_add=np.array([add for _, _, add in edits], np.float32),
    )


def sampled(ops: Ops, logits: Float32, knobs: list[Knobs]) -> Outputs:
    """ids, logprobs, top ids and top logprobs; where no id stands, no logprob counts."""
    result = ops.sample(logits, sample_rows(knobs))
    top = np.where(result.top_ids >= 0, result.top_logprobs, np.float32(0))
    return [result.ids, result.logprobs, result.top_ids, top]


def _sample_cases() -> Iterator[Case]:
    inf = float("inf")
    edits = ((3, 1.5, 0.0), (0, 2.0, -1.0), (40, 1.0, 5.0), (7, 1.0, -inf))
    tables = {
        "greedy": [Knobs(temperature=0, position=i) for i in range(7)],
        "plain": [Knobs(seed=2**63 + 977 * i, position=i * i) for i in range(40)],
        "cold and hot": [Knobs(temperature=0.01 + i / 4, seed=i) for i in range(20)],
        "top_k": [Knobs(top_k=k, seed=k) for k in (1, 2, 3, 50, 900, 2000)],
        "top_p": [Knobs(top_p=p, seed=9) for p in (1e-6, 0.1, 0.5, 0.9, 0.999, 1.0)],
        "min_p": [Knobs(min_p=p, seed=8, position=3) for p in (1e-6, 0.05, 0.5, 1.0)],
        "all knobs": [
            Knobs(0.7, 40, 0.9, 0.05, seed=2**32 * i + 5, position=i, edits=edits)
            for i in range(20)
        ],
        "edits": [Knobs(temperature=i % 2, seed=i, edits=edits[: i % 5]) for i in range(12)],
        "bans": [Knobs(0, edits=tuple((j, 1.0, -inf) for j in range(i))) for i in (1, 900)],
        "logprobs": [Knobs(seed=i, num_logprobs=i - 1, edits=edits) for i in range(6)],
    }
    for name, knobs in tables.items():
        for vocab in (901, 41):
            if vocab <= max((e[0] for row in knobs for e in row.edits), default=0):
                continue

            def call(
                ops: Ops,
                rng: np.random.Generator,
                knobs: list[Knobs] = knobs,
                vocab: int = vocab,
            ) -> Outputs:
                logits = normal(rng, len(knobs), vocab) * 3
                return sampled(ops, logits, knobs)

            yield Case(f"sample {name} of {vocab}", "sample", call)

    def ties(ops: Ops, rng: np.random.Generator) -> Outputs:
        logits = rng.integers(0, 3, (24, 65)).astype(np.float32)
        knobs = [
            Knobs(i % 3 / 2, top_k=i % 7, top_p=(0.3, 0.8, 1.0)[i % 3], seed=i, num_logprobs=5)
            for i in range(24)
        ]
        return sampled(ops, logits, knobs)

    yield Case("sample ties", "sample", ties)
