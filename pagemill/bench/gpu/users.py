"""Tokens a second of the engine alone: requests in, tokens out, no process or socket between."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random
from time import perf_counter
from typing import cast

from pagemill.bench.gpu.bench import Bench, Task
from pagemill.bench.gpu.found import Row
from pagemill.bench.gpu.llama import Loaded, load
from pagemill.bench.gpu.sizes import Shape
from pagemill.bench.gpu.steps import num_pages
from pagemill.engine.engine import Engine
from pagemill.errors import EngineFailure
from pagemill.ops.interface import Array, Captures, Ops
from pagemill.types import EnginePlan, Request, SamplingParams

_BATCHED_TOKENS = 4096  # of a step


def tasks(bench: Bench) -> Iterator[Task]:
    """On graphs, then without."""
    sizes = bench.sizes
    for shape, eager in ((sizes.small, False), (sizes.large, False), (sizes.small, True)):
        name = f"engine, {shape.name}{', eager' if eager else ''}"
        yield Task(name, partial(_engine, bench, shape, eager))


def _engine(bench: Bench, shape: Shape, eager: bool) -> Iterator[Row]:
    sizes, most = bench.sizes, max(bench.sizes.users)
    plan = _plan(bench, most, eager)
    bench.need(3.0 * _parameters(shape) + 4.0 * shape.vocab * most)
    loaded = load(shape, "BF16", bench.device)
    kv = loaded.network.new_kv(plan.num_pages, plan.page_size, plan.max_num_seqs)
    model = loaded.ops.compile(loaded.network)
    if not eager and isinstance(model, Captures):
        model.capture(kv, plan.max_num_seqs, plan.max_model_len, plan.page_size)
    how = "eager" if eager else "graphs"
    _answer(loaded, kv, model, plan, (1, 8, 4))  # what comes first compiles kernels
    for users in sizes.users:
        tokens, seconds = _answer(loaded, kv, model, plan, (users, sizes.prompt, sizes.answer))
        name = f"engine, {shape.name}, {how}"
        size = f"{users} users, {sizes.prompt} + {sizes.answer}"
        yield Row(name, size, tokens / seconds, "tok/s")


def _answer(
    loaded: Loaded, kv: Array, model: Array, plan: EnginePlan, load: tuple[int, int, int]
) -> tuple[int, float]:
    """Users who all ask at once: tokens, and seconds until the last has its answer."""
    users, prompt, answer = load
    # An engine of its own each time: nothing is known of an earlier prompt.
    engine = Engine(model, cast(Ops, loaded.ops), kv, plan, loaded.card.vocab_size)
    rng = Random(users)  # noqa: S311
    vocab = loaded.card.vocab_size
    for user in range(users):
        ids = tuple(rng.randrange(vocab) for _ in range(prompt))
        engine.add(Request(str(user), ids, answer, SamplingParams(temperature=0.0)))
    tokens, started = 0, perf_counter()
    while engine.has_work():
        for delta in engine.step():
            tokens += len(delta.token_ids)
            if delta.finish == "error":
                raise EngineFailure(delta.error or "a step failed")
    return tokens, perf_counter() - started


def _plan(bench: Bench, users: int, eager: bool) -> EnginePlan:
    sizes = bench.sizes
    length = sizes.prompt + sizes.answer + sizes.page
    pages = num_pages(users, length, sizes.page)
    return EnginePlan(
        model_path="",
        backend="cuda",
        threads=1,
        max_model_len=length,
        max_num_seqs=users,
        max_num_batched_tokens=_BATCHED_TOKENS,
        max_queued=users,
        page_size=sizes.page,
        num_pages=pages,
        kv_bytes=0,
        prefix_caching=True,
        enforce_eager=eager,
    )


def _parameters(shape: Shape) -> float:
    layer = shape.hidden * (3 * shape.ffn + 3 * shape.heads * shape.dim)
    return float(shape.layers * layer + 2 * shape.vocab * shape.hidden)
