"""The engine on tensors: steps captured, or planned while one runs, and the same tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.decoding.sampler import Sampler, SamplingState
from pagemill.engine.engine import Engine
from pagemill.ops.cuda import CudaOps
from pagemill.ops.graphs import DecodeGraphs
from pagemill.ops.interface import Ops, SamplesLater
from pagemill.ops.plain.ahead import Choices
from pagemill.ops.plain.ops import PlainOps
from pagemill.ops.reference import ReferenceOps
from pagemill.types import EnginePlan, Request, SamplingParams
from pagemill.weights.load import open_model
from tests.fakes import request, run, token_ids
from tests.ops.plain.graphs import FakeRecorder
from tests.samples import engine_plan

GOLDEN = Path(__file__).parents[2] / "golden"
NETWORKS = ("tiny_llama.gguf", "granitehybrid")


def orders(temperature: float) -> list[Request]:
    prompts = [(7, 3, 9, 3, 1), (7, 3, 9, 3, 1), (1,), tuple(range(2, 14)), (5, 5, 5)]
    made = [
        request(i, prompt, 10, temperature=temperature, seed=50 + i)
        for i, prompt in enumerate(prompts)
    ]
    with_logprobs = SamplingParams(temperature, seed=9, logprobs=2, top_p=0.9)
    penalized = SamplingParams(temperature, seed=9, presence_penalty=1.0)
    return [
        *made,
        request("logprobs", (4, 4), 6, sampling=with_logprobs),
        request("penalized", (4, 4), 6, sampling=penalized),
    ]


def plan_of(tight: bool) -> EnginePlan:
    return engine_plan(num_pages=7 if tight else 40, budget=9, prefix_caching=False)


def engine_on(ops: Ops, network: str, plan: EnginePlan, recorder: FakeRecorder | None) -> Engine:
    checkpoint = open_model(GOLDEN / network, models)
    model = models.build(checkpoint.card, ops, checkpoint.source)
    kv = model.new_kv(plan.num_pages, plan.page_size, plan.max_num_seqs)
    compiled = ops.compile(model)
    if recorder is not None:
        assert isinstance(compiled, DecodeGraphs)
        compiled._recorder = lambda device: recorder
        compiled.capture(kv, plan.max_num_seqs, plan.max_model_len, plan.page_size)
    return Engine(compiled, ops, kv, plan, checkpoint.card.vocab_size)


def answers(engine: Engine, temperature: float) -> dict[str, tuple[int, ...]]:
    for order in orders(temperature):
        engine.add(order)
    deltas = run(engine)
    assert engine.stats().pages_used == 0
    return {id_: token_ids(of_one) for id_, of_one in deltas.items()}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_tokens_of_the_reference_with_steps_captured_and_in_flight(
    network: str, temperature: float
) -> None:
    expected = answers(engine_on(ReferenceOps(), network, plan_of(False), None), temperature)
    for tight in (False, True):
        recorder = FakeRecorder(torch.device("cpu"))
        ops = CudaOps("cpu", torch.float32)
        engine = engine_on(ops, network, plan_of(tight), recorder)
        assert answers(engine, temperature) == expected
        assert recorder.replayed > 5
        assert (engine.stats().preemptions > 0) == tight


def test_a_cpu_does_not_compute_later() -> None:
    assert isinstance(CudaOps("cpu", torch.float32), SamplesLater)
    assert not isinstance(PlainOps("cpu", torch.float32), SamplesLater)


def test_ids_in_flight_are_looked_up() -> None:
    choices = Choices(torch.device("cpu"))
    choices.keep(torch.tensor([40, -1, 42]))
    filled = choices.fill(torch.tensor([7, -3, -1, 0, -2], dtype=torch.int32))
    assert filled.tolist() == [7, 42, 40, 0, 0], "who had no choice computes any id"
    assert filled.dtype == torch.int32


def test_a_later_sample_is_a_sample() -> None:
    chance = np.random.default_rng(0)
    ops = CudaOps("cpu", torch.float32)
    states = [SamplingState(order) for order in orders(0.7)]
    rows = Sampler().rows(states, np.arange(len(states), dtype=np.int32))
    logits = torch.from_numpy(chance.normal(size=(len(states), 60)).astype(np.float32))
    now, later = ops.sample(logits, rows), ops.sample_later(logits, rows)()
    assert np.array_equal(now.ids, later.ids) and np.array_equal(now.logprobs, later.logprobs)
    none = Sampler().rows([], np.empty(0, np.int32))
    assert ops.sample_later(logits[:0], none)().ids.size == 0
