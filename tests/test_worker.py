"""The engine process's program: what a plan asks for is what is built."""

from dataclasses import replace
from pathlib import Path

import pytest

from pagemill import worker
from pagemill.engine.fitting import Network
from pagemill.types import EnginePlan
from tests.fakes import request, run, token_ids
from tests.samples import engine_plan


def plan_of(path: Path, **changes: object) -> EnginePlan:
    made = replace(engine_plan(num_pages=8, budget=9), model_path=str(path))
    return replace(made, **changes)  # type: ignore[arg-type]


def test_pages_are_kept_on_the_host_when_that_is_asked_for(tiny_llama_path: Path) -> None:
    found = []
    for kept in (0, 1 << 20):
        engine, info = worker.build(plan_of(tiny_llama_path, kv_offload_bytes=kept))
        for i in range(9):
            engine.add(request(i, (*range(1, 10), i % 3), 12))
        deltas = run(engine)
        found.append([token_ids(deltas[str(i)]) for i in range(9)])
        assert (engine._host is not None) == bool(kept)
        assert info.num_pages == 8
    assert engine._host is not None and engine._host.pages_in
    assert found[0] == found[1]


def test_without_shared_pages_there_is_nothing_to_keep(tiny_llama_path: Path) -> None:
    plan = plan_of(tiny_llama_path, kv_offload_bytes=1 << 20, prefix_caching=False)
    assert worker.build(plan)[0]._host is None


def test_what_fits_is_what_is_told(tiny_llama_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[EnginePlan, Network]] = []

    def measured(plan: EnginePlan, network: Network, memory: object) -> EnginePlan:
        asked.append((plan, network))
        return replace(plan, num_pages=13, kv_bytes=1300, max_model_len=52)

    monkeypatch.setattr(worker, "fitted", measured)
    monkeypatch.setattr(worker, "_memory", lambda ops: None)
    engine, info = worker.build(plan_of(tiny_llama_path, gpu_memory_utilization=0.9))
    assert (info.num_pages, info.kv_bytes, info.max_model_len) == (13, 1300, 52)
    assert engine.stats().pages_total == 13
    ((_, network),) = asked
    assert (network.pooled, network.captures) == (False, False)
