"""Engines that die or hang, servers that are told to stop or killed: clear ends, nothing left."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.serving import Serving, Stream, answers, nothing_held, until

BACK_S = 10.0  # from an engine's death to the next answer
STUCK_S = 20.0  # until an engine that does nothing is given up: ten seconds of silence, and some
GONE_S = 5.0  # whatever the moment, nothing of a server that must go is left
SHORT = {"prompt": "Hello", "max_tokens": 30, "seed": 1, "temperature": 1.0, "ignore_eos": True}
LONG = SHORT | {"max_tokens": 25_000}  # seconds
MEDIUM = SHORT | {"max_tokens": 2_000}


async def begun(server: Serving, body: dict[str, object], num: int) -> list[Stream]:
    """Streams that have started."""
    streams = [await Stream.open(server, body) for _ in range(num)]
    return list(await asyncio.gather(*(stream.begin() for stream in streams)))


async def all_gone(server: Serving) -> None:
    await until(lambda: not server.tree(), "no process of the server is left", GONE_S)


def assert_ended_in_error(streams: list[Stream]) -> None:
    for stream in streams:
        assert stream.ended == 1, "a stream was cut without [DONE]"
        assert stream.finish is None
        assert stream.error is not None, "a stream ended as if all were well"
        assert {"message", "type", "code"} <= stream.error.keys()


async def test_a_killed_engine_is_replaced(server: Serving) -> None:
    (before,) = await answers(server, [SHORT])
    first = server.engine()
    streams = await begun(server, LONG, 8)
    os.kill(first, signal.SIGKILL)
    killed = time.monotonic()
    await asyncio.gather(*(stream.rest() for stream in streams))
    assert time.monotonic() - killed < BACK_S
    assert_ended_in_error(streams)
    assert all("signal 9" in (stream.error or {})["message"] for stream in streams)
    (after,) = await answers(server, [SHORT])  # waits for the new engine
    assert time.monotonic() - killed < BACK_S
    assert after.text == before.text
    assert server.process.poll() is None
    assert server.engine() != first
    await nothing_held(server)


async def test_health_tells_while_there_is_no_engine(server: Serving) -> None:
    """The new engine is stopped while it loads, so that "meanwhile" lasts."""
    assert server.get("/health")[0] == 200
    first = server.engine()
    os.kill(first, signal.SIGKILL)

    def new_engine() -> bool:
        return any(pid != first for pid in server.engines())

    await until(new_engine, "the next engine starts")
    (second,) = (pid for pid in server.engines() if pid != first)
    os.kill(second, signal.SIGSTOP)
    try:
        await until(lambda: server.get("/health")[0] == 503, "health says 503")
        assert "restart" in server.get("/health")[1]
    finally:
        os.kill(second, signal.SIGCONT)
    await until(lambda: server.get("/health")[0] == 200, "healthy again", BACK_S)
    assert [stream.ended for stream in await answers(server, [SHORT])] == [1]


async def test_a_stuck_engine_is_replaced(server: Serving) -> None:
    first = server.engine()
    streams = await begun(server, LONG, 8)
    os.kill(first, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        await asyncio.gather(*(stream.rest() for stream in streams))
        assert_ended_in_error(streams)
        assert [stream.ended for stream in await answers(server, [SHORT])] == [1]
        assert time.monotonic() - stopped < STUCK_S
        assert server.engine() != first
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGCONT)


async def test_a_server_told_to_stop_lets_answers_finish(
    long_llama_path: Path, tmp_path: Path
) -> None:
    with Serving(tmp_path, long_llama_path) as server:
        (alone,) = await answers(server, [MEDIUM])
        streams = await begun(server, MEDIUM, 8)
        server.signal(signal.SIGTERM)
        await until(lambda: refused(server), "new requests are refused")
        assert server.process.poll() is None, "it ended too early to prove anything"
        await asyncio.gather(*(stream.rest() for stream in streams))
        assert {(stream.text, stream.ended) for stream in streams} == {(alone.text, 1)}
        assert server.exit_code(GONE_S) == 0
        await all_gone(server)


def refused(server: Serving) -> bool:
    """Whether a new request is turned away, by 503 or at the door."""
    try:
        return server.get("/v1/models")[0] == 503
    except OSError:
        return True


async def test_a_second_signal_ends_answers_now(long_llama_path: Path, tmp_path: Path) -> None:
    with Serving(tmp_path, long_llama_path) as server:
        streams = await begun(server, LONG, 8)
        server.signal(signal.SIGTERM)
        await until(lambda: refused(server), "new requests are refused")
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.exit_code, GONE_S) == 0
        await asyncio.gather(*(stream.rest() for stream in streams))
        assert_ended_in_error(streams)
        await all_gone(server)


async def test_a_killed_server_leaves_no_engine(long_llama_path: Path, tmp_path: Path) -> None:
    with Serving(tmp_path, long_llama_path) as server:
        streams = await begun(server, LONG, 2)
        os.kill(server.engine(), signal.SIGSTOP)  # not even one that cannot act
        server.signal(signal.SIGKILL)
        server.exit_code(GONE_S)
        await all_gone(server)
        for stream in streams:
            stream.drop()


@pytest.mark.parametrize("part", range(8))
async def test_a_signal_while_it_starts(
    long_llama_path: Path, tmp_path: Path, start_s: float, part: int
) -> None:
    with Serving(tmp_path, long_llama_path, ready=False) as server:
        await asyncio.sleep(start_s * (part + 0.5) / 8)
        server.signal(signal.SIGTERM)
        code = server.exit_code(GONE_S)
        # Before there is a server to stop, a signal ends the program as it ends any other.
        assert code in (0, -signal.SIGTERM), server.log
        assert "Traceback" not in server.log
        await all_gone(server)


async def test_a_signal_while_a_load_hangs(long_llama_path: Path, tmp_path: Path) -> None:
    with Serving(tmp_path, long_llama_path, ready=False) as server:
        await until(lambda: bool(server.engines()), "an engine was started")
        os.kill(server.engine(), signal.SIGSTOP)
        await until(lambda: "http://" in server.log, "the server listens")
        server.signal(signal.SIGTERM)
        assert server.exit_code(GONE_S) == 0
        await all_gone(server)


async def test_a_client_that_leaves_during_a_load_harms_nobody(
    long_llama_path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    other.symlink_to(long_llama_path)
    with Serving(tmp_path, long_llama_path, other) as server:  # several: loaded on first use
        leaving, staying = [await Stream.open(server, SHORT | {"model": "long"}) for _ in range(2)]
        await until(lambda: bool(server.engines()), "an engine was started")
        leaving.drop()
        await staying.rest()
        assert staying.ended == 1
        await nothing_held(server)
        server.engine()  # there is one


@pytest.fixture(scope="module")
def start_s(long_llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long a start takes here and now."""
    started = time.monotonic()
    with Serving(tmp_path_factory.mktemp("home"), long_llama_path):
        return time.monotonic() - started
