"""The promise: a token never depends on paging, batching, memory, caching or who shares the batch.

Every schedule must give exactly what a recompute without any cache gives, greedy and sampled. And
the matrix must have teeth: each planted fault has to fail it.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pagemill.decoding.sampler import Sampler, SamplingState
from pagemill.engine.pages import PagePool
from pagemill.engine.sequence import Sequence
from pagemill.models import build
from pagemill.ops.interface import Float32, Int32, SampleRows, Step
from pagemill.ops.reference import ReferenceOps
from pagemill.types import Request
from tests.fakes import Checksums, TinySource, recall_engine, request, run, tiny_engine, token_ids
from tests.samples import TINY_CARD, engine_plan

PREFIX = (7, 3, 9, 3, 1, 11)
MAX_TOKENS = 14
LONGEST = 28  # tokens of the longest prompt and its answer


def prompts() -> list[tuple[int, ...]]:
    """Shared and unlike prefixes; two equal prompts; equal pages in unlike places."""
    return [
        (*PREFIX, 5, 2, 8),
        (*PREFIX, 5, 2, 8),
        (*PREFIX, 40),
        PREFIX,
        (1,),
        PREFIX[4:] + PREFIX[:4] + PREFIX + (2, 2),
        (9, 9, 9, 9, 9, 9, 9, 9, 9),
        (2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9),
    ]


def requests(temperature: float) -> list[Request]:
    """One request for each prompt, each with noise of its own."""
    return [
        request(i, prompt, MAX_TOKENS, temperature=temperature, seed=1000 + i)
        for i, prompt in enumerate(prompts())
    ]


@pytest.fixture(scope="module")
def alone() -> Callable[[Request], tuple[int, ...]]:
    """The answer of one request, every token recomputed from nothing, on the tiny Llama."""
    ops = ReferenceOps()
    model = build(TINY_CARD, ops, TinySource(TINY_CARD))

    def answer(order: Request) -> tuple[int, ...]:
        tokens = list(order.prompt)
        state = [SamplingState(order)]
        for _ in range(order.max_tokens):
            n = len(tokens)
            step = Step(
                token_ids=np.array(tokens, np.int32),
                positions=np.arange(n, dtype=np.int32),
                slots=np.arange(n, dtype=np.int32),
                row_starts=np.array([0, n], np.int32),
                kv_lens=np.array([n], np.int32),
                page_table=np.zeros((1, 1), np.int32),
                out_rows=np.array([n - 1], np.int32),
                page_size=64,
            )
            logits = model(step, model.new_kv(1, 64))
            rows = Sampler().rows(state, np.array([n], np.int32))
            tokens.append(int(ops.sample(logits, rows).ids[0]))
        return tuple(tokens[len(order.prompt) :])

    return answer


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_every_schedule_gives_the_tokens_of_a_recompute(
    alone: Callable[[Request], tuple[int, ...]], page_size: int, temperature: float
) -> None:
    expected = [alone(order) for order in requests(temperature)]
    preempted = 0
    for budget, tight, caching in itertools.product((3, 8, 200), (False, True), (False, True)):
        least = -(-LONGEST // page_size)
        plan = engine_plan(
            num_pages=least + 1 if tight else 8 * least,
            page_size=page_size,
            budget=budget,
            prefix_caching=caching,
        )
        engine = tiny_engine(plan)
        for order in requests(temperature):
            engine.add(order)
        deltas = run(engine)
        got = [token_ids(deltas[str(i)]) for i in range(len(expected))]
        assert got == expected, f"{budget=} {tight=} {caching=}"
        stats = engine.stats()
        assert stats.pages_used == 0
        preempted += stats.preemptions
        if not tight:
            assert stats.preemptions == 0
    assert preempted > 0, "tight memory must have displaced somebody"


def test_sampled_answers_differ_from_greedy_ones(
    alone: Callable[[Request], tuple[int, ...]],
) -> None:
    greedy, sampled = (
        [alone(order) for order in requests(temperature)] for temperature in (0.0, 1.0)
    )
    assert greedy != sampled


def unlike_a_recompute(caching: bool = True) -> bool:
    """Whether a few harsh schedules of the recall model give a wrong answer or an error."""
    for page_size, budget, extra in itertools.product((1, 4), (3, 200), (1, 40)):
        least = -(-LONGEST // page_size)
        plan = engine_plan(
            num_pages=least + extra, page_size=page_size, budget=budget, prefix_caching=caching
        )
        engine, model = recall_engine(plan)
        orders = requests(0.0)
        for order in orders:
            engine.add(order)
        deltas = run(engine)
        if [token_ids(deltas[order.id]) for order in orders] != [model.answer(o) for o in orders]:
            return True
    return False


def test_the_recall_model_agrees_without_faults() -> None:
    assert not unlike_a_recompute(caching=True)
    assert not unlike_a_recompute(caching=False)


def test_fault_hash_without_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_of_page_alone(pool: PagePool, seq: Sequence, i: int) -> bytes:
        ids: Int32 = seq.tokens.data[i * pool.page_size : (i + 1) * pool.page_size]
        return ids.tobytes()

    monkeypatch.setattr(PagePool, "_hash", hash_of_page_alone)
    assert unlike_a_recompute()


def test_fault_match_the_last_token_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_full_page(pool: PagePool, seq: Sequence) -> int:
        return seq.tokens.size // pool.page_size

    monkeypatch.setattr(PagePool, "_sharable", every_full_page)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        assert not unlike_a_recompute()


def answer_after_a_failed_step(order: Request) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(got, expected) for a request whose twin before it broke in its first step."""
    engine, model = recall_engine(engine_plan(budget=200))
    broken = True

    def breaks_once(step: Step, kv: Checksums) -> Float32:
        if broken:
            raise ValueError("nothing was written")
        return model(step, kv)

    engine._model = breaks_once
    engine.add(replace(order, id="twin"))
    run(engine)
    broken = False
    engine.add(order)
    return token_ids(run(engine)[order.id]), model.answer(order)


def test_a_failed_step_leaves_nothing_to_share() -> None:
    got, expected = answer_after_a_failed_step(requests(0.0)[0])
    assert got == expected


def test_fault_page_published_but_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PagePool, "forget", lambda pool, seq: None)
    got, expected = answer_after_a_failed_step(requests(0.0)[0])
    assert got != expected


def test_fault_taken_page_keeps_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PagePool, "_unname", lambda pool, page: None)
    assert unlike_a_recompute()


def test_fault_shared_page_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = PagePool._hold

    def count_no_second_holder(pool: PagePool, seq: Sequence, page: int) -> None:
        hold(pool, seq, page)
        if pool._refs[page] > 1:
            pool._refs[page] = 1

    monkeypatch.setattr(PagePool, "_hold", count_no_second_holder)
    with pytest.raises((AssertionError, KeyError)):
        assert not unlike_a_recompute()


@pytest.mark.parametrize("keyed_by", ["row", "number of rows"])
def test_fault_noise_from_the_batch(
    monkeypatch: pytest.MonkeyPatch,
    alone: Callable[[Request], tuple[int, ...]],
    keyed_by: str,
) -> None:
    expected = [alone(order) for order in requests(1.0)]
    rows = Sampler.rows

    def wrong(sampler: Sampler, states: list[SamplingState], positions: Int32) -> SampleRows:
        order = np.arange(len(states), dtype=np.int32)
        return rows(sampler, states, order if keyed_by == "row" else order * 0 + len(states))

    monkeypatch.setattr(Sampler, "rows", wrong)
    engine = tiny_engine(engine_plan(budget=8))
    for order in requests(1.0):
        engine.add(order)
    deltas = run(engine)
    assert [token_ids(deltas[str(i)]) for i in range(len(expected))] != expected
