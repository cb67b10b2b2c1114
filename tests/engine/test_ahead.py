"""Steps planned while the one before runs: the same tokens as of an engine that waits for each."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemill.engine.engine import Engine
from pagemill.engine.pages import PagePool
from pagemill.engine.sequence import Sequence
from pagemill.ops.interface import Float32, Step
from pagemill.types import Delta, EnginePlan, Request, SamplingParams
from tests.engine.late import late_recall, late_states, late_tiny, never
from tests.fakes import Checksums, request, run, tiny_engine, token_ids
from tests.samples import engine_plan

LONGEST = 26  # tokens of the longest prompt and its answer


def orders(temperature: float = 0.0) -> list[Request]:
    """Prompts that share pages and some that do not; one edits its logits by what it has said."""
    prefix = (7, 3, 9, 3, 1, 11)
    prompts = [
        (*prefix, 5, 2), (*prefix, 5, 2), prefix, (1,), (9,) * 9, (2, *(9,) * 11), (*prefix, 40),
    ]  # fmt: skip
    made = [
        request(i, prompt, 14, temperature=temperature, seed=1000 + i)
        for i, prompt in enumerate(prompts)
    ]
    penalties = SamplingParams(temperature, seed=7, presence_penalty=1.5, repetition_penalty=1.2)
    return [*made, request("edits", prefix, 12, sampling=penalties)]


def answers(engine: Engine, asked: list[Request]) -> list[tuple[int, ...]]:
    for order in asked:
        engine.add(order)
    deltas = run(engine)
    assert engine.stats().pages_used == 0
    return [token_ids(deltas[order.id]) for order in asked]


def plans(page_size: int) -> list[EnginePlan]:
    least = -(-LONGEST // page_size)
    return [
        engine_plan(
            num_pages=least + 1 if tight else 8 * least,
            page_size=page_size,
            budget=budget,
            prefix_caching=caching,
        )
        for budget, tight, caching in itertools.product((3, 8, 200), (False, True), (False, True))
    ]


def sometimes(seed: int) -> Callable[[], bool]:
    chance = random.Random(seed)
    return lambda: chance.random() < 0.5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_every_schedule_gives_the_tokens_of_an_engine_that_waits(
    page_size: int, temperature: float
) -> None:
    expected = answers(tiny_engine(engine_plan()), orders(temperature))
    preempted = 0
    for seed, plan in enumerate(plans(page_size)):
        engine, _ = late_tiny(plan, sometimes(seed) if seed % 2 else never)
        assert answers(engine, orders(temperature)) == expected
        preempted += engine.stats().preemptions
    assert preempted > 0, "tight memory must have displaced somebody"


def unlike_the_model(caching: bool = True) -> bool:
    """Whether a few harsh schedules of the recall model give a wrong answer."""
    for page_size, budget, extra in itertools.product((1, 2, 4), (3, 200), (1, 40)):
        least = -(-LONGEST // page_size)
        plan = engine_plan(
            num_pages=least + extra, page_size=page_size, budget=budget, prefix_caching=caching
        )
        engine, model = late_recall(plan)
        asked = [request(f"first {i}", (1, i % 2), 9) for i in range(4)]
        asked += [replace(order, id=f"then {order.id}") for order in orders()]
        asked += [
            request(f"again {i}", (*asked[i].prompt, *model.answer(asked[i])), 3) for i in range(4)
        ]
        for part in (asked[:8], asked[8:]):
            if answers(engine, part) != [model.answer(order) for order in part]:
                return True
    return False


def test_the_recall_model_agrees_without_faults() -> None:
    assert not unlike_the_model(caching=True)
    assert not unlike_the_model(caching=False)


def cached_by_the_next_turn() -> int:
    """Tokens found of a conversation whose last page is filled by its last token computed."""
    engine, model = late_recall(engine_plan(page_size=4))
    order = request("a", range(5), 4)
    engine.add(order)
    run(engine)
    engine.add(request("b", (*order.prompt, *model.answer(order), 1), 2))
    return run(engine)["b"][-1].cached_tokens


def test_the_next_turn_finds_the_page_that_the_last_token_filled() -> None:
    assert cached_by_the_next_turn() == 8


def test_fault_a_page_named_before_its_tokens_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = PagePool.publish

    def too_early(pool: PagePool, seq: Sequence, end: int) -> None:
        known, seq.known_len = seq.known_len, seq.tokens.size
        publish(pool, seq, end)
        seq.known_len = known

    monkeypatch.setattr(PagePool, "publish", too_early)
    assert cached_by_the_next_turn() < 8


def test_fault_a_token_counted_for_whoever_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sequence, "ended", property(lambda seq: False, lambda seq, value: None))
    with pytest.raises((AssertionError, KeyError)):
        test_what_is_computed_beyond_a_stop_is_dropped_and_its_pages_are_free()


def test_a_step_is_launched_before_the_one_before_it_lands() -> None:
    engine, backend = late_tiny(engine_plan())
    engine.add(request("a", (1, 2, 3), 3))
    assert engine.step() == [] and backend.events == ["launch 1"]
    assert len(engine.step()) == 1 and backend.events[1:] == ["launch 2", "land 1"]
    assert len(engine.step()) == 1 and backend.events[3:] == ["launch 3", "land 2"]
    (final,) = engine.step()
    assert final.finish == "length" and backend.events[5:] == ["land 3"]
    assert not engine.has_work()
    stats = engine.stats()
    assert (stats.steps, stats.step_tokens, stats.generation_tokens) == (3, 5, 3)


def test_a_long_prompt_is_not_launched_as_a_whole() -> None:
    engine, backend = late_tiny(engine_plan(budget=4))
    engine.add(request("a", range(20), 1))
    for number in range(1, 6):
        engine.step()
        assert backend.events[-1] == (f"land {number - 1}" if number > 1 else "launch 1")


def test_switched_off_every_step_lands_at_once() -> None:
    engine, backend = late_tiny(replace(engine_plan(), async_scheduling=False))
    backend.sample = backend.ops.sample  # type: ignore[attr-defined]
    engine._model = backend.model
    engine.add(request("a", (1, 2, 3), 3))
    assert [len(engine.step()) for _ in range(3)] == [1, 1, 1]
    assert not engine.has_work() and backend.events == []


def test_penalties_wait_for_the_tokens_that_they_count() -> None:
    engine, backend = late_tiny(engine_plan())
    engine.add(orders()[-1])
    engine.step()
    engine.step()
    assert backend.events == ["launch 1", "land 1", "launch 2", "land 2"]


def test_what_is_computed_beyond_a_stop_is_dropped_and_its_pages_are_free() -> None:
    engine, model = late_recall(engine_plan())
    answer = model.answer(request("a", range(10), 9))
    engine.add(request("a", range(10), 9, stop_ids=(answer[3],)))
    deltas: list[Delta] = []
    while not any(delta.finish for delta in deltas):
        deltas += engine.step()
    assert token_ids(deltas) == answer[:4]
    assert (deltas[-1].finish, deltas[-1].stop_id) == ("stop", answer[3])
    assert engine.stats().pages_used == 0 and engine.stats().generation_tokens == 4
    assert engine.has_work(), "the step that was launched meanwhile"
    assert engine.step() == [] and not engine.has_work()


def test_an_aborted_request_gets_nothing_of_what_is_in_flight() -> None:
    engine, model = late_recall(engine_plan(num_pages=6))
    engine.add(request("a", range(15), 5))
    engine.step()
    engine.step()
    engine.abort("a")
    assert engine.stats().pages_used == 0
    again = request("a", range(20, 35), 5)  # of the same name, in the same pages
    engine.add(again)
    first = engine.step()
    assert [(delta.request_id, delta.finish) for delta in first] == [("a", "abort")]
    assert token_ids(run(engine)["a"]) == model.answer(again)


def test_who_is_displaced_with_its_last_token_in_flight_still_ends_with_it() -> None:
    engine, model = late_recall(engine_plan(num_pages=8, budget=100))
    low = request("low", range(8), 2, priority=1)
    engine.add(low)
    engine.step()
    engine.step()  # the last token of "low" is in flight
    high = request("high", range(20, 48), 3)
    engine.add(high)
    deltas = engine.step()
    assert [(delta.request_id, delta.finish) for delta in deltas] == [("low", "length")]
    assert deltas[0].preemptions == 1 and deltas[0].token_ids == model.answer(low)[1:]
    assert token_ids(run(engine)["high"]) == model.answer(high)


class BrokenDevice(Exception):
    """What a wait may raise."""


def test_what_breaks_in_flight_is_raised() -> None:
    engine, backend = late_tiny(engine_plan())
    model = backend.model

    def breaks(step: Step, kv: object) -> Float32:
        if len(backend.events) > 2:
            raise BrokenDevice
        return model(step, kv)

    backend.model = breaks
    engine.add(request("a", (1, 2, 3)))
    engine.step()
    with pytest.raises(BrokenDevice):
        engine.step()


def test_a_launch_that_breaks_leaves_nothing_to_share() -> None:
    engine, model = late_recall(engine_plan(budget=6, page_size=2))
    order, other = request("a", range(12), 3), request("b", range(20, 23), 4)
    engine.add(order)
    engine.add(other)
    engine.step()  # six tokens of "a"
    backend, engine._model = engine._model, lambda step, kv: 1 / 0
    (final,) = engine.step()
    assert (final.request_id, final.finish) == ("a", "error")
    engine._model = backend
    engine.add(order)
    deltas = run(engine)
    assert token_ids(deltas["a"]) == model.answer(order)
    assert deltas["a"][-1].cached_tokens == 0
    assert token_ids(deltas["b"]) == model.answer(other), "it was not in the step that failed"


def test_a_step_that_cannot_be_launched_fails_after_the_one_before_has_landed() -> None:
    engine, model = late_recall(engine_plan())
    order = request("a", range(5), 4)
    engine.add(order)
    engine.step()
    backend, engine._model = engine._model, lambda step, kv: 1 / 0
    token, final = engine.step()
    assert token.token_ids == model.answer(order)[:1] and token.finish is None
    assert (final.finish, final.error) == ("error", "the step failed: ZeroDivisionError")
    assert not engine.has_work() and engine.stats().pages_used == 0
    engine._model = backend
    engine.add(order)
    assert token_ids(run(engine)["a"]) == model.answer(order)


def test_logits_that_are_no_numbers_end_their_request_only() -> None:
    good, bad = request("good", (1, 2, 3), 6), request("bad", (4, 5, 6), 6)
    alone = answers(tiny_engine(engine_plan()), [good])
    engine, backend = late_tiny(engine_plan())
    model, steps = backend.model, []

    def poisoned(step: Step, kv: object) -> Float32:
        logits = np.array(model(step, kv))
        steps.append(step)
        if len(steps) == 3:
            logits[1] = np.nan
        return logits

    backend.model = poisoned
    engine.add(good)
    engine.add(bad)
    deltas = run(engine)
    assert [token_ids(deltas["good"])] == alone and deltas["good"][-1].finish == "length"
    assert deltas["bad"][-1].error == "the model's logits are not numbers"
    assert len(token_ids(deltas["bad"])) == 2 and engine.stats().pages_used == 0


def test_recurrent_states_survive_dropped_tokens_and_displacement() -> None:
    preempted = 0
    for tight, max_num_seqs in itertools.product((False, True), (2, 8)):
        plan = engine_plan(
            num_pages=8 if tight else 60, max_num_seqs=max_num_seqs, prefix_caching=False
        )
        engine, model = late_states(plan)
        asked = [request(i, (7, 3, i % 4), 14) for i in range(7)]
        asked = [
            replace(order, stop_ids=(model.answer(order)[9 - i],)) if i % 2 else order
            for i, order in enumerate(asked)
        ]
        for order, got in zip(asked, answers(engine, asked), strict=True):
            whole = model.answer(order)
            ends = [i for i, token in enumerate(whole) if token in order.stop_ids]
            assert got == whole[: ends[0] + 1 if ends else None]
        preempted += engine.stats().preemptions
    assert preempted


def break_launches(engine: Engine, at: set[int]) -> None:
    """Let some calls of the model fail."""
    model, calls = engine._model, itertools.count(1)

    def sometimes_fails(step: Step, kv: Checksums) -> Float32:
        if next(calls) in at:
            raise ValueError
        return model(step, kv)

    engine._model = sometimes_fails


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_lives_end_once_and_right(data: st.DataObject) -> None:
    page_size = data.draw(st.sampled_from([1, 3, 4]))
    plan = engine_plan(
        num_pages=-(-24 // page_size) + data.draw(st.sampled_from([0, 1, 4, 40])),
        page_size=page_size,
        budget=data.draw(st.sampled_from([1, 3, 7, 64])),
        max_num_seqs=data.draw(st.sampled_from([1, 3, 8])),
        max_model_len=24,
        prefix_caching=data.draw(st.booleans()),
    )
    broken = data.draw(st.sets(st.integers(1, 30), max_size=2))
    engine, model = late_recall(plan, sometimes(data.draw(st.integers(0, 99))))
    break_launches(engine, broken)
    life = st.tuples(
        st.lists(st.integers(1, 2), min_size=1, max_size=16),  # prompt
        st.integers(1, 8),  # max_tokens
        st.integers(0, 2),  # priority
        st.integers(0, 12),  # arrives before this step
        st.one_of(st.none(), st.integers(0, 20)),  # is aborted before this step
        st.sampled_from([(), (), (0, 1, 2, 3, 4, 5), tuple(range(25))]),  # stop ids
        st.sampled_from([0.0, 0.0, 1.0]),  # presence penalty: the greedy fake ignores it
    )
    lives = data.draw(st.lists(life, max_size=10))
    asked = {
        str(i): request(
            i, prompt, num, priority=priority, stop_ids=stops,
            sampling=SamplingParams(0.0, presence_penalty=penalty),
        )
        for i, (prompt, num, priority, _, _, stops, penalty) in enumerate(lives)
    }  # fmt: skip
    deltas: dict[str, list[Delta]] = {id_: [] for id_ in asked}
    for step in range(3000):
        for i, (_, _, _, arrives, leaves, _, _) in enumerate(lives):
            if arrives == step:
                engine.add(asked[str(i)])
            if leaves == step:
                engine.abort(str(i))
        if step > 20 and not engine.has_work():
            break
        for delta in engine.step():
            deltas[delta.request_id].append(delta)
        engine._pool.check(engine._scheduler.running)
    assert not engine.has_work() and engine.stats().pages_used == 0
    for id_, order in asked.items():
        assert [d.finish is not None for d in deltas[id_]] == [False] * (len(deltas[id_]) - 1) + [
            True
        ]
        final = deltas[id_][-1]
        answer = model.answer(order)
        assert token_ids(deltas[id_]) == answer[: len(token_ids(deltas[id_]))]
        if final.finish in ("length", "stop"):
            assert token_ids(deltas[id_]) == answer
            assert final.finish == ("stop" if answer[-1] in order.stop_ids else "length")
        else:
            assert final.finish == "abort" or broken
