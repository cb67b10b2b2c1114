"""Whole answers of the engine, several at once, against the library's own."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pagemill.config import EngineConfig
from pagemill.engine.client import ProcessClient
from pagemill.engine.local import LocalClient
from pagemill.engine.spawn import EngineProcess
from pagemill.runtime import WORKER, open_as_asked, plan_for
from pagemill.types import Delta, EngineClient, EnginePlan, Request, SamplingParams
from pagemill.worker import build
from tests.fallback.real.conftest import Made
from tests.fallback.real.networks import greedy

NUMBERS = np.random.default_rng(5)
PROMPTS = [NUMBERS.integers(3, 96, size).tolist() for size in (5, 33, 1, 20, 9)]
PROMPTS.append([*PROMPTS[1][:25], 7])  # begins like another
ANSWER_LEN = 12


def planned(folder: Path, **asked: int) -> EnginePlan:
    config = EngineConfig(threads=1, max_model_len=64, **asked)  # type: ignore[arg-type]
    return plan_for(config, open_as_asked(config, folder), str(folder))


async def answer(client: EngineClient, name: int, prompt: list[int]) -> list[Delta]:
    request = Request(str(name), tuple(prompt), ANSWER_LEN, SamplingParams(temperature=0))
    return [delta async for delta in client.generate(request)]


async def answers(client: EngineClient) -> list[list[Delta]]:
    return await asyncio.gather(*(answer(client, n, prompt) for n, prompt in enumerate(PROMPTS)))


def ids(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


@pytest.mark.parametrize("kind", ["stablelm", "opt", "gpt_neox", "olmo3"])
async def test_answers_are_the_librarys(kind: str, made: Made) -> None:
    """Six at once, in steps of 16 tokens, with memory for less than all of them."""
    plan = planned(made(kind), page_size=4, max_num_batched_tokens=16, max_num_seqs=8)
    tight = LocalClient(build(replace(plan, num_pages=20))[0], plan)
    got = await answers(tight)
    again = await answers(tight)
    stats = await tight.stats()
    await tight.close()
    assert [ids(deltas) for deltas in got] == [
        greedy(made(kind), prompt, ANSWER_LEN) for prompt in PROMPTS
    ]
    assert [ids(deltas) for deltas in again] == [ids(deltas) for deltas in got]
    assert stats.preemptions > 0 and stats.prefix_hits > 0


async def test_an_engine_process_of_its_own(made: Made) -> None:
    plan = planned(made("stablelm"))
    client = ProcessClient(plan, lambda: EngineProcess(WORKER))
    client.begin()
    await client.ready()
    try:
        got = await answers(client)
    finally:
        await client.close()
    assert ids(got[1]) == greedy(made("stablelm"), PROMPTS[1], ANSWER_LEN)
