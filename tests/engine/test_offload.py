"""Pages on the host: found like those on the device, and they hold what they held."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemill.engine.engine import Engine
from pagemill.engine.offload import HostPool
from pagemill.models import build
from pagemill.ops.host_pages import ArrayPages
from pagemill.ops.reference import ReferenceOps
from pagemill.types import EnginePlan, Request
from tests.engine.late import LateBackend
from tests.fakes import GreedyOps, RecallModel, TinySource, request, run, tiny_engine, token_ids
from tests.samples import TINY_CARD, engine_plan


class Places:
    """A mover that only takes note."""

    def __init__(self, num_places: int) -> None:
        self.num_places = num_places
        self.calls: list[tuple[str, list[int], list[int]]] = []

    def copy_out(self, pages: list[int], places: list[int]) -> None:
        self.calls.append(("out", pages, places))

    def copy_in(self, pages: list[int], places: list[int]) -> None:
        self.calls.append(("in", pages, places))


def recall(plan: EnginePlan, places: int, late: bool = False) -> tuple[Engine, RecallModel]:
    model = RecallModel()
    kv = model.new_kv(plan.num_pages, plan.page_size)
    mover = ArrayPages(kv, 0, plan.page_size, places * plan.page_size * kv.itemsize)
    assert mover.num_places == places
    ops: Any = GreedyOps()
    if late:
        ops = LateBackend(model, ops, lambda: False)
        mover = Queued(mover, ops)  # type: ignore[assignment]
    return Engine(ops if late else model, ops, kv, plan, 50, mover), model


class Queued:
    """A mover on the queue of a backend that computes later."""

    def __init__(self, mover: ArrayPages, backend: LateBackend) -> None:
        self.mover, self.backend, self.num_places = mover, backend, mover.num_places

    def copy_out(self, pages: list[int], places: list[int]) -> None:
        self.backend._ask(lambda: self.mover.copy_out(pages, places))

    def copy_in(self, pages: list[int], places: list[int]) -> None:
        self.backend._ask(lambda: self.mover.copy_in(pages, places))


def test_what_fell_out_of_the_cache_is_brought_back() -> None:
    engine, model = recall(engine_plan(num_pages=8, page_size=4), places=20)
    first = request("first", range(20), 4)
    engine.add(first)
    run(engine)
    other = request("other", range(20, 48), 4)
    engine.add(other)  # takes every page
    run(engine)
    again = request("again", range(20), 4)
    engine.add(again)
    deltas = run(engine)["again"]
    assert token_ids(deltas) == model.answer(again) and deltas[-1].cached_tokens == 16
    assert engine._host is not None and engine._host.pages_in >= 3
    assert sum(len(step.token_ids) for step in model.steps[-4:]) == 4 + 3


def test_a_displaced_sequence_comes_back_without_computing_its_pages_again() -> None:
    computed = []
    for places in (0, 20):
        engine, model = recall(engine_plan(num_pages=8, page_size=4, budget=100), places)
        low, high = request("low", range(16), 9, priority=1), request("high", range(20, 44), 6)
        engine.add(low)
        engine.step()
        engine.add(high)
        deltas = run(engine)
        assert deltas["low"][-1].preemptions == 1
        assert token_ids(deltas["high"]) == model.answer(high)
        engine.add(low)
        assert token_ids(run(engine)["low"]) == model.answer(low)
        computed.append(engine.stats().step_tokens)
    assert computed[1] <= computed[0] - 12


def orders(temperature: float) -> list[Request]:
    prompts = [
        (7, 3, 9, 3, 1, 11, 5, 2, 8),
        (7, 3, 9, 3, 1, 11, 40),
        (1,),
        (9,) * 9,
        (2, *(9,) * 11),
    ]
    return [
        request(i, prompt, 14, temperature=temperature, seed=1000 + i % 5)
        for i, prompt in enumerate(prompts * 3)
    ]


def tiny(plan: EnginePlan, places: int) -> Engine:
    ops = ReferenceOps()
    model = build(TINY_CARD, ops, TinySource(TINY_CARD))
    kv = model.new_kv(plan.num_pages, plan.page_size)
    page_bytes = kv.nbytes // plan.num_pages
    mover = ArrayPages(kv, 2, plan.page_size, places * page_bytes)
    return Engine(ops.compile(model), ops, kv, plan, TINY_CARD.vocab_size, mover)


def answers(engine: Engine, asked: list[Request]) -> list[tuple[int, ...]]:
    for order in asked:
        engine.add(order)
    deltas = run(engine, lambda engine: engine._pool.check(engine._scheduler.running))
    assert engine.stats().pages_used == 0
    return [token_ids(deltas[order.id]) for order in asked]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_tokens_wherever_pages_were(temperature: float) -> None:
    asked = orders(temperature)
    expected = answers(tiny_engine(engine_plan()), asked)
    brought = 0
    for page_size, budget, places in itertools.product((1, 4), (3, 200), (1, 3, 60)):
        plan = engine_plan(num_pages=-(-26 // page_size) + 1, page_size=page_size, budget=budget)
        engine = tiny(plan, places)
        assert answers(engine, asked) == expected
        assert engine._host is not None
        brought += engine._host.pages_in
    assert brought > 50


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), late=st.booleans())
def test_random_lives_with_few_places(seed: int, late: bool) -> None:
    chance = random.Random(seed)
    page_size = chance.choice([1, 2, 3])
    plan = engine_plan(
        num_pages=-(-22 // page_size) + chance.choice([0, 1, 3]),
        page_size=page_size,
        budget=chance.choice([2, 7, 64]),
        max_model_len=22,
    )
    engine, model = recall(plan, chance.choice([1, 2, 5, 40]), late)
    waiting = [
        request(i, [1] * chance.randint(1, 6) + chance.choices((1, 2), k=chance.randint(0, 8)),
                chance.randint(1, 8), priority=chance.randint(0, 2))
        for i in range(14)
    ]  # fmt: skip
    asked = {order.id: order for order in waiting}
    got: dict[str, tuple[int, ...]] = dict.fromkeys(asked, ())
    aborted = set()
    while waiting or engine.has_work():
        if waiting and chance.random() < 0.5:
            engine.add(waiting.pop())
        if chance.random() < 0.03:
            aborted.add(chance.choice(list(asked)))
            engine.abort(max(aborted))
        for delta in engine.step():
            got[delta.request_id] += delta.token_ids
        engine._pool.check(engine._scheduler.running)
    for id_, order in asked.items():
        assert got[id_] == model.answer(order)[: len(got[id_])]
        assert len(got[id_]) == order.max_tokens or id_ in aborted


def unlike_with(places: int) -> bool:
    engine, model = recall(engine_plan(num_pages=7, page_size=4, budget=200), places)
    asked = [request(i, (*range(9), i % 3), 14) for i in range(9)]
    return answers(engine, asked) != [model.answer(order) for order in asked]


def test_a_reserved_place_is_not_given_away() -> None:
    places = Places(1)
    host = HostPool(places)
    host.keep(b"a", 5)
    host.reserve(b"a")
    host.keep(b"b", 6)  # nothing is free: it is not kept
    host.bring(b"a", 6)
    host.move()
    assert places.calls == [("out", [5], [0]), ("in", [6], [0])]
    assert host.has(b"a") and not host.has(b"b")


def test_moves_are_made_in_their_order_and_runs_of_them_together() -> None:
    places = Places(3)
    host = HostPool(places)
    for page, link in enumerate((b"a", b"b", b"c", b"d")):
        host.keep(link, page)  # the fourth has the place of the first
    host.keep(b"d", 9)
    host.reserve(b"c")
    host.bring(b"c", 7)
    host.keep(b"e", 4)
    host.move()
    host.move()
    assert [call[0] for call in places.calls] == ["out", "in", "out"]
    assert places.calls[0][1] == [0, 1, 2, 3] and places.calls[0][2][3] == places.calls[0][2][0]
    assert not host.has(b"a") and host.has(b"c")


def test_fault_pages_are_overwritten_before_they_are_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not unlike_with(9)
    monkeypatch.setattr(ArrayPages, "copy_in", lambda mover, pages, places: None)
    assert unlike_with(9)


def test_a_move_that_fails_fails_the_step_and_nothing_is_believed_to_be_there() -> None:
    engine, model = recall(engine_plan(num_pages=8, page_size=4), places=20)
    for id_, prompt in (("a", range(20)), ("b", range(20, 48))):
        engine.add(request(id_, prompt, 4))
        run(engine)
    assert engine._host is not None
    mover, engine._host._mover.copy_in = engine._host._mover.copy_in, lambda *_: 1 / 0  # type: ignore
    engine.add(request("again", range(20), 4))
    assert run(engine)["again"][-1].finish == "error"
    assert not engine._host._place_of and engine.stats().pages_used == 0
    engine._host._mover.copy_in = mover  # type: ignore[method-assign]
    order = request("and again", range(20), 4)
    engine.add(order)
    assert token_ids(run(engine)["and again"]) == model.answer(order)
