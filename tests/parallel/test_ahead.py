"""Ranks are told step N+1 while nobody knows yet what N chose: the tokens of one process."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pagemill import models
from pagemill.engine.engine import Engine
from pagemill.ops.interface import Array, SamplesLater, Step
from pagemill.types import EnginePlan
from pagemill.weights.load import open_model
from tests.models.test_golden import HERE
from tests.ops.plain.test_ahead import answers
from tests.parallel.ranks import Loaded, Ranks, alone, plan_of
from tests.parallel.test_failures import (
    LLAMA,
    LONG,
    alive,
    check_answer,
    children,
    client_of,
    golden_request,
    until,
)

pytest.importorskip("triton", reason="without it no backend computes while steps are planned")


def ahead_plan(folder: Path, tensor: int, pipeline: int, **changes: object) -> EnginePlan:
    """The GPU backend, which runs on the CPU, too."""
    plan = plan_of(folder, tensor, pipeline, backend="cuda", device="cpu", dtype="float32")
    return replace(plan, max_num_batched_tokens=9, max_num_seqs=4, **changes)  # type: ignore[arg-type]


class Watched:
    """A network, and how many of its steps named ids in flight."""

    def __init__(self, network: Loaded) -> None:
        self.network = network
        self.steps = self.in_flight = 0

    def __call__(self, step: Step, kv: Array) -> Array:
        self.steps += 1
        self.in_flight += bool((step.token_ids < 0).any())
        return self.network.model(step, kv)


def engine_of(network: Loaded, plan: EnginePlan) -> tuple[Engine, Watched]:
    assert isinstance(network.ops, SamplesLater)
    watched = Watched(network)
    vocab_size = open_model(plan.model_path, models).card.vocab_size
    return Engine(watched, network.ops, network.kv, plan, vocab_size), watched


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(
    ("kind", "tensor", "pipeline"),
    [
        ("llama", 2, 1),
        ("llama", 1, 2),
        ("llama", 2, 2),
        ("granitehybrid", 2, 2),
        ("qwen3moe", 2, 1),
    ],
)
def test_the_tokens_of_one_process(
    ranks: Ranks, kind: str, tensor: int, pipeline: int, temperature: float
) -> None:
    """Greedy and sampled, with prompts in pieces, preemption, logprobs and penalties."""
    sizes = {"page_size": 4, "num_pages": 40, "max_model_len": 28, "prefix_caching": False}
    plan = ahead_plan(HERE / kind, 1, 1, **sizes)
    with alone(plan) as one:
        engine, _ = engine_of(one, replace(plan, async_scheduling=False))
        expected = answers(engine, temperature)
    plan = ahead_plan(HERE / kind, tensor, pipeline, **sizes)
    with ranks.load(plan) as network:
        # So few pages that some must make way.
        engine, watched = engine_of(network, replace(plan, num_pages=7))
        assert answers(engine, temperature) == expected
        assert engine.stats().preemptions
        assert watched.in_flight > watched.steps / 3
        engine, watched = engine_of(network, replace(plan, async_scheduling=False))
        assert answers(engine, temperature) == expected
        assert not watched.in_flight


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (2, 2)])
async def test_a_rank_dies_while_steps_are_in_flight(tensor: int, pipeline: int) -> None:
    client = client_of(ahead_plan(LLAMA, tensor, pipeline))
    info = await client.ready()
    assert info.backend == f"cuda (cpu, float32, {tensor * pipeline} ranks)"
    await check_answer(client)
    stream = client.generate(replace(golden_request("long")[0], max_tokens=LONG))
    await anext(stream)
    last_rank = children(info.pid)[-1]
    os.kill(last_rank, signal.SIGKILL)
    (*_, last) = [delta async for delta in stream]
    assert last.finish == "error"
    assert last.error == (
        f"the engine stopped (rank {tensor * pipeline - 1} of {tensor * pipeline} died: signal 9 "
        "(Killed)) and is being restarted"
    )
    await until(lambda: not alive(info.pid))
    await until(lambda: client.state == "ready")
    await check_answer(client)
    await client.close()
