"""Engine: one final Delta for everyone, whatever happens; counters; speed of its own part."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemill.engine.engine import Engine
from pagemill.errors import Busy, ContextTooLong, EngineFailure, InvalidRequest
from pagemill.ops.interface import Float32, Step
from pagemill.types import SamplingParams
from tests.fakes import Checksums, RecallModel, recall_engine, request, run, tiny_engine, token_ids
from tests.samples import engine_plan


def test_answers_and_ends_with_length() -> None:
    engine, model = recall_engine(engine_plan())
    order = request("a", range(10), 5)
    engine.add(order)
    deltas = run(engine)["a"]
    assert token_ids(deltas) == model.answer(order)
    final = deltas[-1]
    assert (final.finish, final.stop_id, final.error) == ("length", None, None)
    assert min(final.queue_s, final.prefill_s, final.decode_s) >= 0
    assert not engine.has_work() and engine.step() == []


def test_a_stop_id_ends_the_answer_and_is_part_of_it() -> None:
    engine, model = recall_engine(engine_plan())
    stop = model.answer(request("a", range(10), 5))[2]
    engine.add(request("a", range(10), 5, stop_ids=(stop,)))
    deltas = run(engine)["a"]
    assert token_ids(deltas)[-1] == stop
    assert (deltas[-1].finish, deltas[-1].stop_id) == ("stop", stop)
    assert engine.stats().finished_stop == 1


def test_min_tokens_keeps_stop_ids_from_being_sampled() -> None:
    engine = tiny_engine(engine_plan())
    every = tuple(range(40))
    engine.add(replace(request("a", (1, 2, 3), 10, stop_ids=every), min_tokens=6))
    answer = token_ids(run(engine)["a"])
    assert all(token >= 40 for token in answer[:6]) and len(answer) > 6


def test_logprobs_come_one_for_each_token() -> None:
    engine = tiny_engine(engine_plan())
    engine.add(request("a", (1, 2, 3), 4, sampling=SamplingParams(temperature=0, logprobs=2)))
    engine.add(request("b", (1, 2, 3), 4, sampling=SamplingParams(temperature=0, logprobs=0)))
    engine.add(request("c", (1, 2, 3), 4))
    deltas = run(engine)
    for delta in deltas["a"]:
        (logprobs,) = delta.logprobs
        assert logprobs.top_ids[0] == delta.token_ids[0]
        assert logprobs.top[0] == logprobs.chosen < 0 and len(logprobs.top) == 2
    assert all(len(d.logprobs) == 1 and d.logprobs[0].top == () for d in deltas["b"])
    assert all(d.logprobs == () for d in deltas["c"])


def test_abort_frees_pages_before_the_next_plan() -> None:
    engine, _ = recall_engine(engine_plan(num_pages=5))
    engine.add(request("a", range(15), 5))
    engine.step()
    engine.add(request("b", range(20, 35), 5))
    engine.abort("a")
    assert engine.stats().pages_used == 0
    deltas = engine.step()
    assert [(d.request_id, d.finish) for d in deltas] == [("a", "abort"), ("b", None)]
    assert run(engine)["b"][-1].finish == "length"
    assert engine.stats().finished_abort == 1


def test_abort_of_a_waiting_an_unknown_and_a_finished_request() -> None:
    engine, _ = recall_engine(engine_plan(max_num_seqs=1))
    engine.add(request("a", range(5), 1))
    engine.add(request("b", range(5), 1))
    engine.abort("b")
    engine.abort("b")
    engine.abort("nobody")
    deltas = run(engine)
    assert [d.finish for d in deltas["b"]] == ["abort"]
    engine.abort("a")
    assert not engine.has_work()


def test_the_queue_is_bounded() -> None:
    engine, _ = recall_engine(engine_plan(max_queued=2, max_num_seqs=1))
    engine.add(request("a", range(5), 3))
    engine.step()
    engine.add(request("b", range(5), 3))
    engine.add(request("c", range(5), 3))
    with pytest.raises(Busy, match="2 requests"):
        engine.add(request("d", range(5), 3))
    assert set(run(engine)) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "order",
    [
        request("a", range(30), 11),
        request("a", (), 1),
        request("a", (1,), 0),
        request("a", (50,), 1),
        request("a", (-1,), 1),
        request("a", (1,), 1, stop_ids=(50,)),
        request("a", (1,), 1, sampling=SamplingParams(logit_bias=((50, 1.0),))),
        request("twin", (1,), 1),
    ],
)
def test_what_does_not_fit_is_not_accepted(order: object) -> None:
    engine, _ = recall_engine(engine_plan(num_pages=10))
    engine.add(request("twin", (1,), 1))
    with pytest.raises(InvalidRequest):
        engine.add(order)  # type: ignore[arg-type]
    assert set(run(engine)) == {"twin"}


def test_a_request_too_long_is_refused_with_both_numbers() -> None:
    engine, _ = recall_engine(engine_plan(num_pages=10))
    with pytest.raises(ContextTooLong, match=r"30 prompt tokens and max_tokens 11 .* 40"):
        engine.add(request("a", range(30), 11))


def any_token(step: Step, kv: Checksums) -> Float32:
    """The cheapest model."""
    return np.zeros((len(step.out_rows), 8), np.float32)


class BreakingModel(RecallModel):
    """Breaks in chosen steps, after having written keys and values."""

    def __init__(self, error: Exception, at: set[int]) -> None:
        super().__init__()
        self.error, self.at = error, at

    def __call__(self, step: Step, kv: Checksums) -> Float32:
        logits = super().__call__(step, kv)
        if len(self.steps) in self.at:
            kv[step.slots] = 0
            raise self.error
        return logits


def breaking_engine(error: Exception, at: set[int]) -> tuple[Engine, BreakingModel]:
    engine, _ = recall_engine(engine_plan())
    model = BreakingModel(error, at)
    engine._model = model
    return engine, model


def test_a_failed_step_ends_its_requests_and_nobody_elses() -> None:
    engine, model = breaking_engine(ValueError("/secret/path"), at={3})
    victims = [request(f"v{i}", (*range(9), i), 8) for i in range(3)]
    for order in victims:
        engine.add(order)
    engine.step()
    engine.step()
    deltas = engine.step()
    assert {d.request_id for d in deltas} == {"v0", "v1", "v2"}
    assert all(d.finish == "error" and d.error == "the step failed: ValueError" for d in deltas)
    assert engine.stats().pages_used == 0 and engine.stats().finished_error == 3
    again = [replace(order, id=f"again {order.id}") for order in victims]
    for order in again:
        engine.add(order)
    deltas_of = run(engine)
    for order in again:
        assert token_ids(deltas_of[order.id]) == model.answer(order)


def test_logits_that_are_no_numbers_end_their_request_only() -> None:
    engine = tiny_engine(engine_plan())
    good, bad = request("good", (1, 2, 3), 6), request("bad", (4, 5, 6), 6)
    engine.add(good)
    alone = token_ids(run(engine)["good"])
    model, steps = engine._model, []

    def poisoned(step: Step, kv: object) -> Float32:
        logits = np.array(model(step, kv))
        steps.append(step)
        if len(steps) == 3:
            logits[1] = np.nan
        return logits

    engine._model = poisoned
    engine.add(good)
    engine.add(bad)
    deltas = run(engine)
    assert token_ids(deltas["good"]) == alone and deltas["good"][-1].finish == "length"
    assert deltas["bad"][-1].error == "the model's logits are not numbers"
    assert len(token_ids(deltas["bad"])) == 2 and engine.stats().pages_used == 0


def test_an_error_meant_for_users_keeps_its_words() -> None:
    engine, _ = breaking_engine(EngineFailure("the accelerator is out of memory"), at={1})
    engine.add(request("a", range(5)))
    (delta,) = engine.step()
    assert delta.error == "the step failed: the accelerator is out of memory"


def test_a_request_outside_the_failed_step_goes_on() -> None:
    engine, model = breaking_engine(ValueError(), at={1})
    engine.add(request("a", range(30), 2))
    later = request("b", range(40), 2)
    engine.add(later)  # the budget of the first step is used up by the first request
    deltas = run(engine)
    assert deltas["a"][-1].finish == "error"
    assert token_ids(deltas["b"]) == model.answer(later)


def test_an_id_outside_the_vocabulary_is_a_failed_step() -> None:
    engine, _ = recall_engine(engine_plan(), vocab_size=50)
    engine._model = lambda step, kv: np.eye(1, 90, 80, dtype=np.float32)
    engine.add(request("a", range(5)))
    assert engine.step()[0].finish == "error"


def test_cached_tokens_and_counters() -> None:
    engine, _ = recall_engine(engine_plan(page_size=4))
    for id_ in "abc":
        engine.add(request(id_, range(10), 3))
        deltas = run(engine)[id_]
        assert deltas[-1].cached_tokens == (0 if id_ == "a" else 8)
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generation_tokens) == (30, 9)
    assert (stats.prefix_queries, stats.prefix_hits) == (30, 16)
    assert stats.steps == 9 and stats.step_tokens == 30 - 16 + 6
    assert stats.memory_bytes > 1 << 20 and stats.step_seconds > 0


def test_little_of_the_allocated_memory_is_empty() -> None:
    """At 50 sequences of mixed length under 4 % of slots hold nothing."""
    plan = engine_plan(num_pages=2000, page_size=16, budget=512, max_num_seqs=64)
    engine, _ = recall_engine(plan)
    engine._model = any_token
    for i in range(50):
        engine.add(request(i, [i % 50] * (60 + 11 * i), 400))
    for _ in range(60):
        engine.step()
    stats = engine.stats()
    assert stats.running == 50 and stats.generation_tokens > 50
    assert 1 - stats.slots_filled / stats.slots_allocated < 0.04


def test_shared_pages_are_counted_once() -> None:
    engine, _ = recall_engine(engine_plan(page_size=4, budget=100))
    for id_ in "abcd":
        engine.add(request(id_, range(9), 9))
    engine.step()
    stats = engine.stats()
    assert (stats.pages_used, stats.slots_allocated, stats.slots_filled) == (2 + 4, 24, 8 + 4)


@settings(max_examples=60, deadline=None)
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
    engine, model = recall_engine(plan)
    lives = data.draw(
        st.lists(
            st.tuples(
                st.lists(st.integers(1, 2), min_size=1, max_size=16),  # prompt
                st.integers(1, 8),  # max_tokens
                st.integers(0, 2),  # priority
                st.integers(0, 12),  # arrives before this step
                st.one_of(st.none(), st.integers(0, 20)),  # is aborted before this step
            ),
            max_size=10,
        )
    )
    orders = {
        str(i): request(i, prompt, num, priority=priority)
        for i, (prompt, num, priority, _, _) in enumerate(lives)
    }
    deltas = {id_: [] for id_ in orders}
    for step in range(3000):
        for i, (_, _, _, arrives, leaves) in enumerate(lives):
            if arrives == step:
                engine.add(orders[str(i)])
            if leaves == step:
                engine.abort(str(i))
        if step > 20 and not engine.has_work():
            break
        for delta in engine.step():
            deltas[delta.request_id].append(delta)
    assert not engine.has_work() and engine.stats().pages_used == 0
    for id_, order in orders.items():
        assert [d.finish is not None for d in deltas[id_]].count(True) == 1
        assert deltas[id_][-1].finish in ("length", "abort")
        answer = model.answer(order)
        assert token_ids(deltas[id_]) == answer[: len(token_ids(deltas[id_]))]
        if deltas[id_][-1].finish == "length":
            assert token_ids(deltas[id_]) == answer


def test_the_engines_own_part_of_a_step_is_small() -> None:
    """Well under a millisecond for 50 rows; the bound leaves room for a busy machine."""
    plan = engine_plan(num_pages=3000, page_size=16, budget=512, max_num_seqs=64)
    engine, _ = recall_engine(plan)
    engine._model = any_token
    for i in range(50):
        engine.add(request(i, [i % 40] * (20 + i), 400))
    for _ in range(20):
        engine.step()
    seconds = []
    for _ in range(100):
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1e-3
