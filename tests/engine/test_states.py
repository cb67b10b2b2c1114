"""Networks with recurrent state: a slot for each sequence that runs, and the same promises."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.decoding.sampler import Sampler, SamplingState
from pagemill.engine.engine import Engine
from pagemill.ops.interface import Ops
from pagemill.ops.reference import ReferenceOps
from pagemill.types import Delta, EnginePlan, Request
from pagemill.weights.load import open_model
from tests.fakes import request, run, state_engine, token_ids
from tests.models.test_golden import logits, step_of
from tests.samples import engine_plan

HYBRID = Path(__file__).parents[1] / "golden" / "granitehybrid"
MAX_TOKENS, LONGEST = 14, 30


def requests(temperature: float = 0.0) -> list[Request]:
    """Of many lengths, some alike; each with noise of its own."""
    prompts = [(7, 3, 9), (7, 3, 9), (7, 3, 9, 4), (1,), tuple(range(16)), (9,) * 12, (2, 9, 9)]
    return [
        request(i, prompt, MAX_TOKENS, temperature=temperature, seed=1000 + i)
        for i, prompt in enumerate(prompts)
    ]


def plans(page_size: int) -> list[EnginePlan]:
    """Chunks, tight memory, and fewer slots than there are requests."""
    least = -(-LONGEST // page_size)
    return [
        engine_plan(
            num_pages=least + 1 if tight else 8 * least,
            page_size=page_size,
            budget=budget,
            max_num_seqs=max_num_seqs,
            prefix_caching=False,
        )
        for budget, tight, max_num_seqs in itertools.product((3, 7, 512), (False, True), (2, 50))
    ]


def slots_are_sound(engine: Engine) -> None:
    """Who runs has a slot of its own, nobody else has one, and none is lost."""
    scheduler = engine._scheduler
    held = [seq.state_slot for seq in scheduler.running]
    assert all(seq.state_slot == -1 for seq in scheduler.waiting)
    assert sorted([*held, *scheduler._state_slots]) == list(range(scheduler.max_seqs))


def test_every_schedule_keeps_states_apart() -> None:
    preempted = 0
    for plan in plans(4):
        engine, model = state_engine(plan)
        orders = requests()
        for order in orders:
            engine.add(order)
        deltas = run(engine, slots_are_sound)
        assert [token_ids(deltas[o.id]) for o in orders] == [model.answer(o) for o in orders]
        preempted += engine.stats().preemptions
    assert preempted, "tight memory must have displaced somebody"


def test_fault_a_slot_given_twice() -> None:
    engine, model = state_engine(engine_plan(prefix_caching=False))
    engine._scheduler._state_slots = [0] * 8
    orders = requests()
    for order in orders:
        engine.add(order)
    deltas = run(engine)
    assert [token_ids(deltas[o.id]) for o in orders] != [model.answer(o) for o in orders]


def test_aborted_requests_give_their_slots_back() -> None:
    engine, model = state_engine(engine_plan(max_num_seqs=2, prefix_caching=False))
    orders = [request(i, (i, 5, 6), 9) for i in range(6)]
    for order in orders:
        engine.add(order)
    deltas: dict[str, list[Delta]] = {}
    for number in itertools.count():
        if number in (2, 5):  # one that runs and one that waits
            engine.abort(orders[number // 2].id)
            slots_are_sound(engine)
        for delta in engine.step():
            deltas.setdefault(delta.request_id, []).append(delta)
        if not engine.has_work():
            break
    slots_are_sound(engine)
    finished = [o for o in orders if deltas[o.id][-1].finish != "abort"]
    assert len(finished) == 4
    assert all(token_ids(deltas[o.id]) == model.answer(o) for o in finished)


def test_a_failed_step_gives_its_slots_back() -> None:
    engine, model = state_engine(engine_plan(max_num_seqs=1, prefix_caching=False))
    engine._model = lambda step, kv: 1 / 0
    engine.add(request("broken", (1, 2, 3)))
    assert run(engine)["broken"][-1].finish == "error"
    slots_are_sound(engine)
    engine._model = model
    order = request("sound", (1, 2, 3))
    engine.add(order)
    assert token_ids(run(engine)["sound"]) == model.answer(order)


def hybrid_engine(ops: Ops, plan: EnginePlan) -> Engine:
    checkpoint = open_model(HYBRID, models)
    model = models.build(checkpoint.card, ops, checkpoint.source)
    kv = model.new_kv(plan.num_pages, plan.page_size, plan.max_num_seqs)
    return Engine(ops.compile(model), ops, kv, plan, checkpoint.card.vocab_size)


def recomputed(ops: Ops, order: Request) -> tuple[int, ...]:
    """The answer of one request, every token computed from nothing."""
    checkpoint = open_model(HYBRID, models)
    model = models.build(checkpoint.card, ops, checkpoint.source)
    tokens, state = list(order.prompt), [SamplingState(order)]
    for _ in range(order.max_tokens):
        step = step_of((tokens, 0))
        step = replace(step, out_rows=step.out_rows[-1:])
        logits = np.array(model(step, model.new_kv(16, 16, 3)))
        rows = Sampler().rows(state, np.array([len(tokens)], np.int32))
        tokens.append(int(ops.sample(logits, rows).ids[0]))
    return tuple(tokens[len(order.prompt) :])


def test_the_bytes_are_the_same_alone_and_among_others() -> None:
    cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
    ops, checkpoint = cpu.CpuOps(threads=2), open_model(HYBRID, models)
    model = models.build(checkpoint.card, ops, checkpoint.source)
    ids = list(range(5, 45))
    alone = logits(model, model.new_kv(16, 16, 3), (ids, 0))
    kv = model.new_kv(16, 16, 3)
    logits(model, kv, ([9] * 30, 0), (ids, 0), ([2] * 5, 0))  # it is the second of three rows
    for cuts in ([0, 40], [0, 1, 2, 3, 20, 21, 40], [*range(0, 41, 7), 40]):
        parts = []
        for start, end in itertools.pairwise(cuts):
            of_others = ([1] * (start % 3 + 1), 0), ([3], 0)
            part = logits(model, kv, of_others[0], (ids[start:end], start), of_others[1])
            before = len(of_others[0][0])
            parts.append(part[before : before + end - start])
        assert np.array_equal(np.concatenate(parts), alone)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_every_schedule_gives_the_tokens_of_a_recompute(backend: str, temperature: float) -> None:
    ops: Ops = ReferenceOps()
    if backend == "cpu":
        cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
        ops = cpu.CpuOps(threads=2)
    orders = requests(temperature)
    expected = [recomputed(ops, order) for order in orders]
    for plan in plans(16):
        engine = hybrid_engine(ops, plan)
        for order in orders:
            engine.add(order)
        deltas = run(engine, slots_are_sound)
        assert [token_ids(deltas[order.id]) for order in orders] == expected
