"""The supervised process: crashes, silence, failed loads, early starts and the end."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest

from pagemill.engine.client import Patience, ProcessClient
from pagemill.engine.spawn import EngineProcess
from pagemill.errors import BadModelFile, EngineFailure, Unavailable
from tests.engine import fake_engine
from tests.engine.doors import (
    IMPATIENT,
    answer,
    spawn,
    started,
    tokens,
    until,
)
from tests.engine.fake_engine import PLAN, order, plan_of


async def test_a_killed_engine_is_restarted(open_process: Callable[..., ProcessClient]) -> None:
    client = open_process(plan_of("fake:0.005"))
    info = await client.ready()
    running = [asyncio.create_task(answer(client, order(f"{i}", 100_000))) for i in range(10)]
    await asyncio.sleep(0.1)
    os.kill(info.pid, signal.SIGKILL)
    began = time.monotonic()
    for task in running:
        final = (await task)[-1]
        assert final.finish == "error"
        assert final.error == "the engine stopped (signal 9 (Killed)) and is being restarted"
    assert time.monotonic() - began < 1
    assert client.state == "restarting"
    with pytest.raises(Unavailable, match="restarted"):
        await client.stats()
    assert tokens(await answer(client, order("next", 2, first=5))) == [5, 6], "it waited"
    assert client.state == "ready"
    assert client.info is not None
    assert client.info.pid != info.pid


async def test_requests_wait_for_a_restart_only_so_long(
    open_process: Callable[..., ProcessClient],
) -> None:
    patience = Patience(heartbeat_s=0.05, pause_s=5, wait_s=0.1)
    client = open_process(patience=patience)
    for _ in range(2):  # the second restart comes after a pause
        os.kill((await client.ready()).pid, signal.SIGKILL)
        await until(lambda: client.state == "restarting")
        if client.reason and _ == 0:
            await until(lambda: client.state == "ready")
    aborted = asyncio.create_task(answer(client, order("aborted")))
    await asyncio.sleep(0)
    await client.abort("aborted")
    assert (await aborted)[-1].finish == "abort"
    with pytest.raises(Unavailable, match="signal 9") as caught:
        await anext(client.generate(order("a")))
    assert caught.value.retry_after > 0


async def test_an_exception_in_the_loop_restarts(
    open_process: Callable[..., ProcessClient],
) -> None:
    client = open_process()
    final = (await answer(client, order("a", mischief=fake_engine.EXPLODE)))[-1]
    assert final.error == "the engine stopped (exit status 1) and is being restarted"
    await answer(client, order("b"))


async def test_a_stopped_engine_is_killed_and_restarted(
    open_process: Callable[..., ProcessClient],
) -> None:
    client = open_process(plan_of("fake:0.005"))
    info = await client.ready()
    stream, _ = await started(client, order("a", 100_000))
    os.kill(info.pid, signal.SIGSTOP)
    final = [delta async for delta in stream][-1]
    assert final.finish == "error"
    assert "did not answer" in (final.error or "")
    await answer(client, order("b"))


@pytest.mark.skipif(not os.path.exists("/proc"), reason="CPU times of other processes need /proc")
async def test_a_long_step_is_not_a_stuck_engine(
    open_process: Callable[..., ProcessClient],
) -> None:
    client = open_process()
    await client.ready()
    deltas = await answer(client, order("a", 1, fake_engine.SPIN, 1000))
    assert deltas[-1].finish == "length"


async def test_an_endless_step_ends(open_process: Callable[..., ProcessClient]) -> None:
    client = open_process(patience=Patience(heartbeat_s=0.05, step_s=0.5))
    final = (await answer(client, order("a", 1, fake_engine.SPIN, 60_000)))[-1]
    assert "did not answer" in (final.error or "")


async def test_many_crashes_in_a_minute_and_it_stays_down(
    open_process: Callable[..., ProcessClient],
) -> None:
    client = open_process()
    for number in range(5):
        await until(lambda: client.state in ("loading", "ready"))
        await answer(client, order(f"{number}", mischief=fake_engine.EXPLODE))
        await until(lambda: client.state in ("ready", "failed"))
    assert client.state == "failed"
    assert "5 times within 60 seconds, the last time: exit status 1" in client.reason
    with pytest.raises(Unavailable, match="5 times") as caught:
        await anext(client.generate(order("a")))
    assert caught.value.retry_after >= 10
    with pytest.raises(Unavailable):
        await client.stats()


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("bad", BadModelFile, "bad: it is no model"),
        ("broken", EngineFailure, "loading failed: RuntimeError"),
        ("dies", EngineFailure, "stopped while it loaded the model (exit status 7)"),
    ],
)
async def test_a_model_that_cannot_be_loaded(
    open_process: Callable[..., ProcessClient], model: str, error: type[Exception], words: str
) -> None:
    client = open_process(plan_of(model))
    waiting = asyncio.create_task(answer(client, order("a")))
    with pytest.raises(error) as caught:
        await client.ready()
    assert words in str(caught.value)
    assert client.state == "failed"
    with pytest.raises(Unavailable, match=r"bad: it|loading failed|while it loaded"):
        await waiting


async def test_no_program_to_run() -> None:
    def nothing() -> EngineProcess:
        raise FileNotFoundError(2, "No such file or directory")

    client = ProcessClient(PLAN, nothing)
    with pytest.raises(EngineFailure, match="could not be started: No such file"):
        await client.ready()
    await client.close()


async def test_closing_while_it_loads(open_process: Callable[..., ProcessClient]) -> None:
    client = open_process(plan_of("slow to load"))
    loading = asyncio.create_task(client.ready())
    waiting = asyncio.create_task(answer(client, order("a")))
    left = asyncio.create_task(answer(client, order("b")))
    await asyncio.sleep(0.2)
    left.cancel()
    began = time.monotonic()
    await client.close()
    assert time.monotonic() - began < 2
    assert (await waiting)[-1].finish == "abort"
    with pytest.raises(Unavailable, match=r"stopped|closed"):
        await loading


async def test_a_process_started_early_is_used_or_ended() -> None:
    early = spawn()
    client = ProcessClient(PLAN, spawn, process=early)
    assert (await client.ready()).pid == early.pid
    await client.close()
    assert early.ended()
    begun = ProcessClient(PLAN, spawn)
    begun.begin()
    begun.begin()
    assert len(await answer(begun, order("a"))) == 3
    os.kill((await begun.ready()).pid, signal.SIGKILL)
    await until(lambda: begun.state == "restarting")
    assert len(await answer(begun, order("b"))) == 3, "the next process is told, too"
    await begun.close()
    unused = spawn()
    await ProcessClient(PLAN, spawn, process=unused).close()
    assert unused.ended()


async def test_draining(open_process: Callable[..., ProcessClient]) -> None:
    client = open_process(plan_of("fake:0.02"))
    running = asyncio.create_task(answer(client, order("a", 10)))
    await client.ready()
    await asyncio.sleep(0.05)
    assert not await client.drain(0.01)
    with pytest.raises(Unavailable, match="shutting down"):
        await anext(client.generate(order("b")))
    assert await client.drain(5)
    assert (await running)[-1].finish == "length"
    assert await client.drain(0)


async def test_a_door_that_talks_nonsense_is_a_crash(
    open_process: Callable[..., ProcessClient],
) -> None:
    client = open_process(plan_of("fake:0.005"))
    await client.ready()
    stream, _ = await started(client, order("a", 100_000))
    assert client._link is not None
    client._link.data_received(b"\xff\xff\xff\xff")
    final = [delta async for delta in stream][-1]
    assert "a frame of 4294967295 bytes" in (final.error or "")
    await answer(client, order("b"))


def test_it_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def life() -> None:
        client = ProcessClient(plan_of("fake:0.005"), spawn, patience=IMPATIENT)
        client.begin()
        time.sleep(0.5)  # what it reports is there before we listen
        info = await client.ready()
        assert tokens(await answer(client, order("a", 3, first=1))) == [1, 2, 3]
        stream, _ = await started(client, order("b", 100_000))
        os.kill(info.pid, signal.SIGKILL)
        assert [delta async for delta in stream][-1].finish == "error"
        await answer(client, order("c"))
        await client.close()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(life())
    finally:
        loop.close()
