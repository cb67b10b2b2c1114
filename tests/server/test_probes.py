"""Health, readiness, load and metrics."""

import asyncio
import re

import pytest

from pagemill import __version__
from pagemill.errors import Unavailable
from pagemill.server import probes
from pagemill.server.app import create_app
from pagemill.server.metrics import Histogram, one_two_five
from tests.server.conftest import Live, Start, until
from tests.server.fakes import FakeEngine, FakeModel, FakeRuntime, http_config


async def metrics(live: Live) -> dict[str, float]:
    text = (await live.http.get("/metrics")).text
    pairs = re.findall(r"^([^#\s][^ {]*(?:\{[^}]*\})?) (\S+)$", text, re.M)
    return {name: float(value) for name, value in pairs}


async def test_quiet_server(live: Live) -> None:
    assert (await live.http.get("/health")).json() == {"status": "ok"}
    assert (await live.http.get("/version")).json() == {"version": __version__}
    assert (await live.http.get("/load")).json() == {"server_load": 0, "running": 0, "waiting": 0}


async def test_ready_makes_a_token(live: Live) -> None:
    assert (await live.http.get("/ready")).json() == {"status": "ready", "models": ["tiny"]}
    assert live.engine.requests[0].max_tokens == 1
    assert live.engine.requests[0].priority < 0


async def test_a_broken_engine(start: Start) -> None:
    live = await start(FakeModel(FakeEngine(broken=Unavailable("restarting", retry_after=3))))
    for path in ("/health", "/ready"):
        answer = await live.http.get(path)
        assert answer.status_code == 503
        assert "restarting" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"]
    assert live.engine.requests == []  # nobody waited for it to make a token
    chat = await live.chat()
    assert (chat.status_code, chat.headers["retry-after"]) == (503, "3")
    assert (await live.http.get("/metrics")).status_code == 200


async def test_a_frozen_engine_is_not_ready(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "READY_TIMEOUT_S", 0.05)
    live = await start(FakeModel(FakeEngine(gate=asyncio.Event())))
    answer = await live.http.get("/ready")
    assert answer.status_code == 503
    assert "no token within" in answer.json()["error"]["message"]


async def test_ready_without_models(direct: Live) -> None:
    await direct.state.runtime.unload("tiny")
    assert (await direct.http.get("/ready")).json()["detail"] == "no model loaded"


async def test_preloading() -> None:
    runtime = FakeRuntime(FakeModel())
    app = create_app(runtime, http_config(), preload=("tiny", "missing"))
    state = app.state.server
    async with app.router.lifespan_context(app):
        await until(lambda: not state.preloading)
        assert "missing" in state.preload_error
    assert runtime.closed


async def test_metrics(live: Live) -> None:
    await live.chat()
    await live.chat(max_tokens=3, stream=True)
    await live.chat(n=99)
    found = await metrics(live)
    tiny = 'engine="0",model_name="tiny"'
    assert (
        found['vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"}']
        == 1
    )
    assert found[f"vllm:time_to_first_token_seconds_count{{{tiny}}}"] == 2
    assert found[f"vllm:inter_token_latency_seconds_count{{{tiny}}}"] == 31 + 2
    assert found[f"vllm:request_generation_tokens_sum{{{tiny}}}"] == 35
    assert found[f"vllm:request_queue_time_seconds_sum{{{tiny}}}"] == pytest.approx(0.02)
    assert found[f"vllm:kv_cache_usage_perc{{{tiny}}}"] == 0.25
    assert found[f"vllm:gpu_cache_usage_perc{{{tiny}}}"] == 0.25
    assert found[f"vllm:gpu_prefix_cache_hits_total{{{tiny}}}"] == 5
    assert found[f"pagemill:kv_waste_ratio{{{tiny}}}"] == 0.25
    assert found[f"vllm:iteration_tokens_total_sum{{{tiny}}}"] == 70
    chat = 'handler="/v1/chat/completions",method="POST"'
    assert found[f'http_requests_total{{{chat},status="2xx"}}'] == 2
    assert found[f'http_requests_total{{{chat},status="4xx"}}'] == 1
    assert "process_resident_memory_bytes" in found


async def test_series_do_not_grow_with_requests(direct: Live) -> None:
    live = direct

    async def strange(i: int) -> None:
        await live.http.request(f"M{i}", f"/p{i}")
        await live.http.get(f"/v1/models/m{i}")
        await live.chat(model=f"m{i}", user=f"u{i}")

    await strange(0)
    await metrics(live)
    before = set(await metrics(live))
    for i in range(1, 30):
        await strange(i)
    assert set(await metrics(live)) == before


def test_histogram() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.sample() == ([("1.0", 2), ("2.0", 3), ("+Inf", 4)], 12.0)


def test_one_two_five() -> None:
    assert one_two_five(60) == (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
