"""An engine as the worker builds it: the torch backend beside the reference."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pagemill import worker
from pagemill.errors import Unsupported
from pagemill.types import Request, SamplingParams
from tests.fakes import run
from tests.samples import engine_plan

PROMPTS = (range(1, 20), range(30, 33), range(5, 47, 2))


def answers(path: Path, backend: str, device: str = "") -> tuple[list[tuple[int, ...]], str]:
    """What three users get, two of them greedy, and what the engine says computed it."""
    plan = replace(engine_plan(page_size=16), model_path=str(path), backend=backend, device=device)
    engine, info = worker.build(replace(plan, max_num_batched_tokens=8))
    for index, prompt in enumerate(PROMPTS):
        sampling = SamplingParams(temperature=0.0 if index else 0.8, top_p=0.9, seed=index)
        engine.add(Request(str(index), tuple(prompt), 12, sampling))
    deltas = run(engine)
    ids = [
        tuple(id_ for delta in deltas[str(index)] for id_ in delta.token_ids)
        for index in range(len(PROMPTS))
    ]
    return ids, info.backend


def test_torch_answers_as_the_reference_does(tiny_llama_path: Path) -> None:
    torch.set_num_threads(1)
    expected, _ = answers(tiny_llama_path, "reference")
    got, backend = answers(tiny_llama_path, "torch", "cpu")
    assert got == expected and all(len(ids) == 12 for ids in got)
    assert backend == "torch (cpu, float32)"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said_so(tiny_llama_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"finds no GPU that it can use.*pagemill doctor"):
        answers(tiny_llama_path, "cuda", "cuda")
