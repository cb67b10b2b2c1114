"""The promise on the real model and the native kernels: a request gives the same bytes, whatever
else runs.

Fifty prompts, half of them with a common beginning, alternately greedy and sampled at temperature
1. Each is first answered alone, from a fresh cache, in one piece; every other way to run them must
give the same token ids and the same log-probabilities, compared with plain equality.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.engine.engine import Engine
from pagemill.types import Delta, EngineStats, Request, SamplingParams
from pagemill.weights.load import open_model
from tests.samples import engine_plan

NUM_REQUESTS = 50
NUM_TOKENS = 12
PLAN = replace(
    engine_plan(num_pages=600, page_size=16, budget=512, max_num_seqs=64, max_model_len=256),
    backend="cpu",
    threads=2,
)

Answers = dict[str, list[tuple[tuple[int, ...], object]]]
Run = Callable[..., tuple[Answers, EngineStats]]


def requests() -> list[Request]:
    rng = np.random.default_rng(7)
    common = rng.integers(1000, 40_000, 40)
    made = []
    for i in range(NUM_REQUESTS):
        own = rng.integers(1000, 40_000, int(rng.integers(3, 70)))
        prompt = np.concatenate([common, own]) if i % 2 else own
        sampling = SamplingParams(temperature=float(i // 2 % 2), seed=i, logprobs=2)
        made.append(Request(f"r{i}", tuple(prompt.tolist()), NUM_TOKENS, sampling))
    return made


@pytest.fixture(scope="module", params=["f16", "q8"])
def kv_dtype(request: pytest.FixtureRequest) -> str:
    """What keys and values are kept as."""
    return str(request.param)


@pytest.fixture(scope="module")
def run(smollm2_path: Path, kv_dtype: str) -> Run:
    """Runs groups of requests, one group after another, on an engine of its own."""
    cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
    checkpoint = open_model(smollm2_path, models)
    ops = cpu.CpuOps(threads=2, kv_dtype=kv_dtype)
    model = models.build(checkpoint.card, ops, checkpoint.source)

    def run(groups: list[list[Request]], **changes: object) -> tuple[Answers, EngineStats]:
        plan = replace(PLAN, **changes)
        kv = model.new_kv(plan.num_pages, plan.page_size)
        engine = Engine(ops.compile(model), ops, kv, plan, checkpoint.card.vocab_size)
        answers: Answers = {}
        for group in groups:
            for request in group:
                engine.add(request)
            while engine.has_work():
                for delta in engine.step():
                    collect(answers, delta)
        assert engine.stats().pages_used == 0
        return answers, engine.stats()

    return run


def collect(answers: Answers, delta: Delta) -> None:
    assert delta.error is None
    answers.setdefault(delta.request_id, []).append((delta.token_ids, delta.logprobs))


@pytest.fixture(scope="module")
def alone(run: Run) -> Answers:
    return run([[request] for request in requests()], prefix_caching=False)[0]


def test_answers_are_worth_comparing(alone: Answers) -> None:
    texts = {tuple(ids for ids, _ in answer) for answer in alone.values()}
    assert len(alone) == NUM_REQUESTS and len(texts) > NUM_REQUESTS * 0.9


def test_among_fifty(run: Run, alone: Answers) -> None:
    answers, stats = run([requests()], prefix_caching=False)
    assert answers == alone
    assert stats.steps < NUM_REQUESTS * NUM_TOKENS / 10  # they did share steps


def test_among_fifty_in_another_order_with_shared_pages(run: Run, alone: Answers) -> None:
    answers, stats = run([requests()[::-1]])
    assert answers == alone
    assert stats.prefix_hits > 0


def test_from_a_warm_prefix_cache(run: Run, alone: Answers) -> None:
    again = [replace(request, id="again " + request.id) for request in requests()]
    answers, stats = run([requests(), again])
    assert {i: a for i, a in answers.items() if i in alone} == alone
    assert {i.removeprefix("again "): a for i, a in answers.items() if i not in alone} == alone
    assert stats.prefix_hits > stats.prefix_queries / 2


@pytest.mark.parametrize("budget", [3, 7, 512])
def test_in_chunks(run: Run, alone: Answers, budget: int) -> None:
    assert run([requests()], max_num_batched_tokens=budget)[0] == alone


@pytest.mark.parametrize("caching", [True, False])
def test_preempted(run: Run, alone: Answers, caching: bool) -> None:
    answers, stats = run([requests()], num_pages=17, prefix_caching=caching, max_num_seqs=8)
    assert answers == alone
    assert stats.preemptions > 0


@pytest.mark.parametrize("page_size", [32, 64])
def test_in_larger_pages(run: Run, alone: Answers, page_size: int) -> None:
    assert run([requests()], page_size=page_size, num_pages=9600 // page_size)[0] == alone


def test_on_one_thread(alone: Answers, smollm2_path: Path, kv_dtype: str) -> None:
    from pagemill.ops.cpu import CpuOps

    checkpoint = open_model(smollm2_path, models)
    ops = CpuOps(threads=1, kv_dtype=kv_dtype)
    model = models.build(checkpoint.card, ops, checkpoint.source)
    engine = Engine(
        ops.compile(model), ops, model.new_kv(600, 16), PLAN, checkpoint.card.vocab_size
    )
    answers: Answers = {}
    for request in requests():
        engine.add(request)
    while engine.has_work():
        for delta in engine.step():
            collect(answers, delta)
    assert answers == alone
