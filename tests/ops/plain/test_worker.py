"""An engine as the worker builds it: the torch backend beside the reference."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pagemill import worker
from pagemill.errors import Unsupported
from pagemill.ops.plain.cache import KV_DTYPES
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


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "bf16", "q8", "fp8"])
@pytest.mark.parametrize("backend", ["torch", "cuda"])
def test_smaller_caches_serve(tiny_llama_path: Path, backend: str, kv_dtype: str) -> None:
    """From the plan to answers: the engine's pages are of the type that was asked for, and nobody's
    answer depends on who shares the steps, on chunks, or on pages that are found again."""
    torch.set_num_threads(1)
    plan = replace(
        engine_plan(page_size=4),
        model_path=str(tiny_llama_path),
        backend=backend,
        device="cpu",
        kv_cache_dtype=kv_dtype,
    )

    def ask(budget: int, *prompts: range) -> list[tuple[int, ...]]:
        engine, _ = worker.build(replace(plan, max_num_batched_tokens=budget))
        assert engine._kv[0].keys.dtype == KV_DTYPES[kv_dtype]
        assert (engine._kv[0].key_scales is not None) == (kv_dtype in ("q8", "fp8"))
        found = []
        for turn in range(2):  # the second finds the pages of the first
            for index, prompt in enumerate(prompts):
                greedy = SamplingParams(temperature=0.0)
                engine.add(Request(f"{turn}.{index}", tuple(prompt), 12, greedy))
            deltas = run(engine)
            found.append(
                [
                    tuple(id_ for delta in deltas[f"{turn}.{index}"] for id_ in delta.token_ids)
                    for index in range(len(prompts))
                ]
            )
        assert engine.stats().prefix_hits and found[0] == found[1]
        return found[0]

    together = ask(64, *PROMPTS)
    assert together == ask(5, *PROMPTS)
    assert together[0] == ask(64, PROMPTS[0])[0]
    assert all(len(ids) == 12 for ids in together)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said_so(tiny_llama_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"finds no GPU that it can use.*pagemill doctor"):
        answers(tiny_llama_path, "cuda", "cuda")
