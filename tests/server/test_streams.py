"""Readers that go away, that are slow, that never read; and silence before the first token."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from pagemill.server import openai_routes
from pagemill.server.sse import StreamLimits
from tests.server.conftest import Live, Start, until
from tests.server.fakes import PLAN, FakeEngine, FakeModel

LONG = {"max_tokens": 200, "ignore_eos": True}


async def open_stream(
    live: Live, **body: object
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port, limit=2**10)
    raw = json.dumps({"prompt": "a", **body}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)
    return reader, writer


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_dropped_client_ends_its_requests(start: Start, stream: bool, n: int) -> None:
    engine = FakeEngine(delay=0.01)
    live = await start(FakeModel(engine))
    _, writer = await open_stream(live, stream=stream, n=n, **LONG)
    await until(lambda: len(engine.live) == n)
    writer.transport.abort()
    await until(lambda: len(engine.aborted) == n, 0.5)
    await until(lambda: live.state.in_flight == 0)
    assert not engine.live
    assert not live.state.live
    assert (await live.chat()).status_code == 200


async def test_a_client_that_drops_before_the_first_token(start: Start) -> None:
    engine = FakeEngine(gate=asyncio.Event())
    live = await start(FakeModel(engine))
    for stream in (True, False):
        _, writer = await open_stream(live, stream=stream)
        await until(lambda: len(engine.live) == 1)
        writer.close()
        await until(lambda: not engine.live, 0.5)


async def test_one_failing_choice_ends_its_siblings(start: Start) -> None:
    engine = FakeEngine(max_live=2, delay=0.01)
    live = await start(FakeModel(engine))
    answer = await live.post("/v1/completions", prompt="a", n=4, stream=True, **LONG)
    assert answer.status_code == 429
    assert not engine.live


async def test_a_slow_reader_gets_everything_in_fewer_chunks(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is long enough to fill all buffers between server and client."""
    monkeypatch.setattr(openai_routes, "StreamLimits", lambda **_: StreamLimits(10**9))
    word = b"0123456789" * 400
    engine = FakeEngine(word, chunk=4000)
    live = await start(long_model(engine))
    reader, writer = await open_stream(live, stream=True, max_tokens=2_000_000, ignore_eos=True)
    await until(lambda: bool(engine.requests) and not engine.live, 10)
    received = await asyncio.wait_for(read_all(reader), 10)
    writer.close()
    events = [line for line in received.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(json.loads(event[6:])["choices"][0]["text"] for event in events)
    assert len(text) == 2_000_000
    assert text.startswith("0123456789")
    assert len(events) < 500  # so many deltas


def long_model(engine: FakeEngine) -> FakeModel:
    return FakeModel(engine, plan=replace(PLAN, max_model_len=20_000_000))


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """The body of a chunked answer."""
    await reader.readuntil(b"\r\n\r\n")
    body = b""
    while True:
        size = int(await reader.readline(), 16)
        if size == 0:
            return body
        body += await reader.readexactly(size)
        await reader.readexactly(2)


async def test_a_reader_with_too_much_pending_is_given_up(start: Start) -> None:
    engine = FakeEngine(b"0123456789" * 1000, chunk=10_000)
    live = await start(long_model(engine))
    _, writer = await open_stream(live, stream=True, max_tokens=8_000_000, ignore_eos=True)
    await until(lambda: len(engine.aborted) == 1, 5)
    await until(lambda: live.state.in_flight == 0)
    writer.close()


async def test_a_reader_that_takes_nothing_is_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = StreamLimits(max_pending_bytes=10**9, write_timeout_s=0.1, tick_s=0.02)
    monkeypatch.setattr(openai_routes, "StreamLimits", lambda **_: limits)
    engine = FakeEngine(b"0123456789" * 1000, chunk=10_000, delay=0.001)
    live = await start(long_model(engine))
    _, writer = await open_stream(live, stream=True, max_tokens=12_000_000, ignore_eos=True)
    await until(lambda: bool(engine.live))
    await until(lambda: live.state.in_flight == 0, 5)
    assert not engine.live
    assert (await live.chat()).status_code == 200
    writer.close()


async def test_silence_is_filled_with_comments(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = StreamLimits(ping_s=0.05, tick_s=0.01)
    monkeypatch.setattr(openai_routes, "StreamLimits", lambda **_: limits)
    engine = FakeEngine(gate=asyncio.Event())
    live = await start(FakeModel(engine))
    async with live.http.stream(
        "POST", "/v1/completions", json={"prompt": "a", "stream": True}
    ) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ": ping"
        assert engine.gate is not None
        engine.gate.set()
        rest = [line async for line in lines]
    assert rest[-2] == "data: [DONE]"


async def test_many_streams_at_once(live: Live) -> None:
    async def one(i: int) -> httpx.Response:
        return await live.post("/v1/completions", prompt=f"{i}", stream=True, **LONG)

    answers = await asyncio.gather(*(one(i) for i in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
