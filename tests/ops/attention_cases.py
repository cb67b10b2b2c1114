"""Cases of attention."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pagemill.ops.interface import Ops, Rope, Scoring
from tests.ops.case import (
    EXACT,
    HALF_KV,
    ROUNDED_ACTIVATIONS,
    Case,
    Outputs,
    normal,
    ragged_step,
    weight,
    whole_step,
)

MIXED = ((0, 5), (0, 1), (0, 18), (0, 2))


def attention_cases() -> Iterator[Case]:
    """Over pages of every size; with windows, caps and sinks; heads of every size."""
    yield from _paged()
    yield from _scored()
    yield from _rotated()
    yield from _dense()
    yield from _latent()


def _latent() -> Iterator[Case]:
    for heads, latent, rope in [(1, 16, 4), (5, 40, 8), (16, 512, 64)]:

        def call(
            ops: Ops,
            rng: np.random.Generator,
            size: tuple[int, int, int] = (heads, latent, rope),
        ) -> Outputs:
            heads, latent, rope = size
            kv, pages = ops.new_kv(2, 16, 16, 1, latent + rope, True), rng.permutation(16)
            outputs: Outputs = []
            for lens, takes in (([0, 0], [37, 20]), ([37, 20], [1, 3])):
                step = ragged_step(lens, takes, pages.astype(np.int32), 16)
                tokens = len(step.positions)
                q, q_rope = normal(rng, tokens, heads, latent), normal(rng, tokens, heads, rope)
                shared, k_rope = normal(rng, tokens, latent), normal(rng, tokens, rope)
                y = ops.latent_attention(q, q_rope, shared, k_rope, kv[1], step, 0.15)
                outputs.append(np.asarray(y))
            return outputs

        name = f"latent_attention {heads} heads of {latent}+{rope}"
        yield Case(name, "latent_attention", call, HALF_KV, 16)

    for name, heads, k, n in [
        ("F32", 3, 7, 5),
        ("F16", 4, 24, 48),
        ("Q8_0", 5, 64, 32),
        ("Q4_1", 2, 96, 24),
    ]:

        def products(
            ops: Ops,
            rng: np.random.Generator,
            name: str = name,
            size: tuple[int, int, int] = (heads, k, n),
        ) -> Outputs:
            heads, k, n = size
            matrix = ops.upload(weight(rng, k, (name, heads * n)))
            return [np.asarray(ops.linear_heads(normal(rng, 9, heads, k), matrix))]

        exact = name in ("F32", "F16")
        tolerance = EXACT if exact else ROUNDED_ACTIVATIONS
        yield Case(f"linear_heads {name} {heads}x{k}x{n}", "linear_heads", products, tolerance)


def _dense() -> Iterator[Case]:
    for heads, kv_heads, dim in [(1, 1, 8), (12, 12, 32), (9, 3, 24), (12, 1, 80)]:
        for scoring in (Scoring(0.3), Scoring(0.2, window=20), Scoring(0.5, softcap=3.0)):

            def call(
                ops: Ops,
                rng: np.random.Generator,
                scoring: Scoring = scoring,
                size: tuple[int, int, int] = (heads, kv_heads, dim),
            ) -> Outputs:
                heads, kv_heads, dim = size
                step = whole_step([5, 1, 130, 16])
                q = normal(rng, 152, heads, dim)
                k, v = normal(rng, 2, 152, kv_heads, dim)
                return [np.asarray(ops.dense_attention(q, k, v, step, scoring))]

            shape = f"{heads}/{kv_heads} heads of {dim}"
            name = f"dense_attention {shape}, window {scoring.window}, cap {scoring.softcap}"
            yield Case(name, "dense_attention", call, 2e-5)


def _scored() -> Iterator[Case]:
    for name, scoring, sinks in [
        ("window 1", Scoring(0.2, window=1), False),
        ("window 20", Scoring(0.2, window=20), False),
        ("softcap", Scoring(0.5, softcap=2.0), False),
        ("sinks", Scoring(0.2), True),
        ("window 17, softcap, sinks", Scoring(0.4, 17, 5.0), True),
    ]:
        for heads, kv_heads, dim in [(6, 2, 24), (16, 1, 256), (1, 1, 576)]:

            def call(
                ops: Ops,
                rng: np.random.Generator,
                scoring: Scoring = scoring,
                sinks: bool = sinks,
                size: tuple[int, int, int] = (heads, kv_heads, dim),
            ) -> Outputs:
                heads, kv_heads, dim = size
                kv = ops.new_kv(1, 16, 16, kv_heads, dim)
                pages = rng.permutation(16).astype(np.int32)
                scores = ops.vector(normal(rng, heads)) if sinks else None
                outputs: Outputs = []
                for lens, takes in (([0, 0], [37, 50]), ([37, 50], [1, 3])):
                    step = ragged_step(lens, takes, pages, 16)
                    q = normal(rng, len(step.positions), heads, dim)
                    k, v = normal(rng, 2, len(step.positions), kv_heads, dim)
                    y = ops.attention(q, k, v, kv[0], step, scoring, scores)
                    outputs.append(np.asarray(y))
                return outputs

            name_of = f"attention {name}, {heads}/{kv_heads} heads of {dim}"
            yield Case(name_of, "attention", call, 2 * HALF_KV, 16)


def _rotated() -> Iterator[Case]:
    for heads, kv_heads, dim, half in [(6, 2, 24, 12), (4, 4, 80, 16)]:

        def call(
            ops: Ops,
            rng: np.random.Generator,
            size: tuple[int, int, int, int] = (heads, kv_heads, dim, half),
        ) -> Outputs:
            heads, kv_heads, dim, half = size
            kv, pages = ops.new_kv(1, 8, 16, kv_heads, dim), rng.permutation(8).astype(np.int32)
            rope = Rope(tuple(100.0 ** (-i / half) for i in range(half)), 1.25)
            outputs: Outputs = []
            for lens, takes in (([0, 0], [37, 20]), ([37, 20], [1, 3])):
                step = ragged_step(lens, takes, pages, 16)
                q = normal(rng, len(step.positions), heads, dim)
                k, v = normal(rng, 2, len(step.positions), kv_heads, dim)
                y = ops.attention(q, k, v, kv[0], step, Scoring(0.2), None, rope)
                outputs.append(np.asarray(y))
            return outputs

        name = f"attention rotated, {2 * half} of {dim}, {heads}/{kv_heads} heads"
        yield Case(name, "attention", call, 2 * HALF_KV, 16)


def _paged() -> Iterator[Case]:
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
                lens = [0] * len(MIXED)
                for takes in ([n for _, n in MIXED], [1, 1, 1, 1], [1, 7, 3, 1]):
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
