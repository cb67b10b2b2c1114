"""PoolingEngine: rows are whole, one vector each, whoever shares the step; ends as ever."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemill.engine.pooling import PoolingEngine
from pagemill.errors import Busy, ContextTooLong, InvalidRequest
from pagemill.ops.interface import Array, Float32, Step
from pagemill.types import EnginePlan, Request
from tests.fakes import GreedyOps, recall_engine, run
from tests.samples import engine_plan

VOCAB = 50
PLAN = engine_plan(num_pages=16, budget=20, max_num_seqs=6, max_model_len=48, prefix_caching=False)


class TextModel:
    """The vector of a row depends on all its tokens, their types and positions, on nothing else."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.fails = False

    def __call__(self, step: Step, kv: Array) -> Float32:
        self.steps.append(step)
        if self.fails:
            raise RuntimeError("a secret path")
        assert step.token_types is not None
        assert step.out_rows.tolist() == (step.row_starts[1:] - 1).tolist()
        assert step.kv_lens.tolist() == np.diff(step.row_starts).tolist()
        assert len(set(step.slots.tolist())) == len(step.token_ids)
        rows = zip(step.row_starts[:-1], step.row_starts[1:], strict=True)
        return np.array([self.of_row(step, slice(a, b)) for a, b in rows])

    def of_row(self, step: Step, row: slice) -> Float32:
        assert step.token_types is not None
        assert step.positions[row].tolist() == list(range(row.stop - row.start))
        return vector(step.token_ids[row].tolist(), step.token_types[row].tolist())


def vector(ids: list[int], types: list[int]) -> Float32:
    checksums = [zlib.crc32(bytes(values)) for values in (ids, types)]
    nan = np.nan if ids[0] == VOCAB - 1 else 1.0
    return np.array([nan, *(checksum % 9973 for checksum in checksums)], np.float32)


def pooling_engine(plan: EnginePlan = PLAN) -> tuple[PoolingEngine, TextModel]:
    model = TextModel()
    ops = GreedyOps()
    return PoolingEngine(model, ops, None, plan, VOCAB), model  # type: ignore[arg-type]


def order(name: str | int, ids: list[int] | range, types: tuple[int, ...] = ()) -> Request:
    return Request(str(name), tuple(ids), 0, pooled=True, token_types=types)


def test_a_vector_comes_with_the_one_and_final_delta() -> None:
    engine, _ = pooling_engine()
    engine.add(order("a", [3, 1, 4], (0, 0, 1)))
    [delta] = run(engine)["a"]
    assert (delta.finish, delta.token_ids, delta.cached_tokens) == ("stop", (), 0)
    assert delta.vector == vector([3, 1, 4], [0, 0, 1]).astype("<f4").tobytes()
    assert min(delta.queue_s, delta.prefill_s) >= 0 == delta.decode_s
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generation_tokens, stats.finished_stop) == (3, 0, 1)
    assert (stats.steps, stats.step_tokens, stats.pages_used) == (1, 3, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 48), min_size=1, max_size=30),
    st.sampled_from([1, 7, 20, 100]),
    st.sampled_from([1, 3, 30]),
    st.sampled_from([12, 16, 64]),
)
def test_rows_are_whole_whatever_the_limits(
    lens: list[int], budget: int, max_num_seqs: int, num_pages: int
) -> None:
    engine, model = pooling_engine(
        replace(PLAN, max_num_batched_tokens=budget, max_num_seqs=max_num_seqs, num_pages=num_pages)
    )
    for i, length in enumerate(lens):
        engine.add(order(i, [(i + j) % (VOCAB - 1) for j in range(length)]))
    done = run(engine, lambda engine: engine._pool.check([]))
    for i, length in enumerate(lens):
        ids = [(i + j) % (VOCAB - 1) for j in range(length)]
        assert done[str(i)][0].vector == vector(ids, [0] * length).tobytes()
    for step in model.steps:
        assert len(step.kv_lens) <= max_num_seqs
        assert len(step.token_ids) <= budget or len(step.kv_lens) == 1


def test_many_short_texts_share_a_step() -> None:
    engine, model = pooling_engine(replace(PLAN, max_num_seqs=30, num_pages=64))
    for i in range(20):
        engine.add(order(i, [1, i]))
    assert len(run(engine)) == 20
    assert [len(step.kv_lens) for step in model.steps] == [10, 10]


def test_lower_priorities_run_first_and_arrival_decides_among_equals() -> None:
    engine, model = pooling_engine(replace(PLAN, max_num_seqs=1))
    for name, priority in (("1", 0), ("2", 5), ("3", -1), ("4", 0)):
        engine.add(replace(order(name, [int(name)]), priority=priority))
    run(engine)
    assert [int(step.token_ids[0]) for step in model.steps] == [3, 1, 4, 2]


def test_an_abort_before_the_step_leaves_the_others() -> None:
    engine, _ = pooling_engine()
    engine.add(order("a", [1, 2]))
    engine.add(order("b", [3]))
    engine.abort("a")
    done = run(engine)
    assert [done[name][0].finish for name in ("a", "b")] == ["abort", "stop"]
    assert done["a"][0].vector == b""


def test_a_failed_step_answers_its_rows_and_hides_internals() -> None:
    engine, model = pooling_engine(replace(PLAN, max_num_seqs=2))
    model.fails = True
    for name in "abc":
        engine.add(order(name, [1]))
    first = engine.step()
    assert [(d.request_id, d.finish, d.error) for d in first] == [
        (name, "error", "the step failed: RuntimeError") for name in "ab"
    ]
    model.fails = False
    assert run(engine)["c"][0].finish == "stop"


def test_a_vector_of_nonsense_is_an_error_of_its_row_alone() -> None:
    engine, _ = pooling_engine()
    engine.add(order("good", [1]))
    engine.add(order("bad", [VOCAB - 1]))
    done = run(engine)
    assert done["good"][0].finish == "stop"
    assert done["bad"][0].finish == "error" and "not numbers" in str(done["bad"][0].error)


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (Request("a", (1,), 5), InvalidRequest, "writes no text"),
        (Request("a", (1,), 5, pooled=True), InvalidRequest, "writes no text"),
        (order("a", []), InvalidRequest, "at least one"),
        (order("a", range(49)), ContextTooLong, "49 prompt tokens exceed the limit of 48"),
        (order("a", [VOCAB]), InvalidRequest, "0..49"),
        (order("a", [-1]), InvalidRequest, "0..49"),
        (order("a", [1, 2], (0,)), InvalidRequest, "token_types"),
        (order("a", [1, 2], (0, 2)), InvalidRequest, "token_types"),
        (order("a", [1, 2], (0, -1)), InvalidRequest, "token_types"),
    ],
)
def test_what_does_not_fit_is_refused(
    request_: Request, error: type[Exception], words: str
) -> None:
    engine, _ = pooling_engine()
    with pytest.raises(error, match=words):
        engine.add(request_)
    assert not engine.has_work()


def test_a_full_queue_is_busy_and_an_id_runs_once() -> None:
    engine, _ = pooling_engine(replace(PLAN, max_queued=2))
    engine.add(order("a", [1]))
    with pytest.raises(InvalidRequest, match="running already"):
        engine.add(order("a", [1]))
    engine.add(order("b", [1]))
    with pytest.raises(Busy):
        engine.add(order("c", [1]))


def test_a_text_engine_refuses_to_pool() -> None:
    engine, _ = recall_engine(engine_plan())
    with pytest.raises(InvalidRequest, match="no vectors"):
        engine.add(order("a", [1]))
