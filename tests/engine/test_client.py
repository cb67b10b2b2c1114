"""Both doors: exactly one final Delta for every accepted request, whatever happens."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from pagemill.engine.client import Patience, ProcessClient
from pagemill.engine.local import LocalClient
from pagemill.engine.spawn import EngineProcess
from pagemill.errors import BadModelFile, Busy, EngineFailure, InvalidRequest, Unavailable
from pagemill.types import Delta, EnginePlan, Request
from tests.engine import fake_engine
from tests.engine.fake_engine import PLAN, FakeEngine, order, plan_of

Client = LocalClient | ProcessClient
Open = Callable[..., Client]

IMPATIENT = Patience(
    heartbeat_s=0.05, stuck_s=0.3, step_s=30, wait_s=5, pause_s=0.05, most_pause_s=0.1, leave_s=0.2
)


def spawn() -> EngineProcess:
    return EngineProcess("tests.engine.fake_engine")


@pytest.fixture(params=["local", "process"])
async def open_client(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Makes clients of one kind; all are closed afterwards."""
    clients: list[Client] = []

    def make(plan: EnginePlan = PLAN) -> Client:
        if request.param == "local":
            client: Client = LocalClient(fake_engine.build(replace(plan, max_queued=9999))[0], plan)
        else:
            client = ProcessClient(plan, spawn, patience=IMPATIENT)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def open_process() -> AsyncIterator[Callable[..., ProcessClient]]:
    clients: list[ProcessClient] = []

    def make(plan: EnginePlan = PLAN, patience: Patience = IMPATIENT) -> ProcessClient:
        clients.append(ProcessClient(plan, spawn, patience=patience))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


async def answer(client: Client, request: Request) -> list[Delta]:
    """All Deltas of a request, checked: one final one, and it is the last."""
    deltas = [delta async for delta in client.generate(request)]
    assert [delta.finish is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    assert {delta.request_id for delta in deltas} == {request.id}
    return deltas


def tokens(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


async def started(client: Client, request: Request) -> tuple[Any, Delta]:
    """An iterator that has given its first Delta."""
    stream = client.generate(request)
    return stream, await anext(stream)


async def no_requests(client: Client) -> None:
    for _ in range(500):
        if not (await client.stats()).running:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("requests are left")


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it took too long")


async def test_an_answer(open_client: Open) -> None:
    deltas = await answer(open_client(), order("a", 5, first=50))
    assert tokens(deltas) == [50, 51, 52, 53, 54]
    assert deltas[-1].finish == "length"
    assert deltas[-1].decode_s == 0.5


async def test_a_thousand_quick_requests(open_client: Open) -> None:
    client = open_client(plan_of(max_queued=1000))
    names = [f"r{i}" for i in range(1000)]
    answers = await asyncio.gather(
        *(answer(client, order(name, 1 + i % 4, first=i)) for i, name in enumerate(names))
    )
    for i, deltas in enumerate(answers):
        assert tokens(deltas) == list(range(i, i + 1 + i % 4))
    await no_requests(client)


async def test_abort_twice_and_unknown_ids(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    stream, _ = await started(client, order("a", 100_000))
    for name in ("a", "a", "nobody"):
        await client.abort(name)
    rest = [delta async for delta in stream]
    assert [delta.finish for delta in rest if delta.finish] == ["abort"]
    await client.abort("a")
    await no_requests(client)


async def test_abort_after_the_end_sends_nothing(open_client: Open) -> None:
    client = open_client()
    await answer(client, order("a"))
    await client.abort("a")
    assert (await client.stats()).finished_abort == 0


async def test_closing_the_iterator_aborts_once(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    stream, _ = await started(client, order("a", 100_000))
    await stream.aclose()
    await no_requests(client)
    assert (await client.stats()).finished_abort == 1
    # The id is free again, and gets nothing of the old request.
    assert tokens(await answer(client, order("a", 2, first=7))) == [7, 8]


async def test_cancelling_the_reader_aborts(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    tasks = [asyncio.create_task(answer(client, order(f"{i}", 100_000))) for i in range(20)]
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await no_requests(client)


async def test_refused_before_the_first_delta(open_client: Open) -> None:
    client = open_client()
    with pytest.raises(InvalidRequest, match="refused") as caught:
        await anext(client.generate(order("a", mischief=fake_engine.REFUSE)))
    assert caught.value.param == "prompt"
    await answer(client, order("a"))


async def test_an_id_that_runs_is_refused(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    stream, _ = await started(client, order("a", 1000))
    with pytest.raises(InvalidRequest, match="'a' is running"):
        await anext(client.generate(order("a")))
    await stream.aclose()


async def test_the_queue_is_bounded_and_whole_again_afterwards(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.02", max_num_seqs=2, max_queued=3))
    for _ in range(2):
        results = await asyncio.gather(
            *(answer(client, order(f"{i}", 4)) for i in range(8)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, Busy)]
        assert len(refused) == 3
        assert all(error.retry_after > 0 for error in refused)
        assert sum(isinstance(result, list) for result in results) == 5


async def test_close_ends_everything_once_and_for_all(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    running = [asyncio.create_task(answer(client, order(f"{i}", 100_000))) for i in range(5)]
    await asyncio.sleep(0.3)
    await asyncio.gather(client.close(), client.close())
    assert [(await task)[-1].finish for task in running] == ["abort"] * 5
    with pytest.raises(Unavailable):
        await anext(client.generate(order("a")))
    with pytest.raises(Unavailable):
        await client.stats()


async def test_a_slow_reader_loses_nothing(open_client: Open) -> None:
    client = open_client()
    got = []
    async with aclosing(client.generate(order("slow", 200, first=0))) as stream:
        async for delta in stream:
            got += delta.token_ids
            await asyncio.sleep(0.001)
    assert got == list(range(200))


async def test_a_step_that_raises_in_this_process() -> None:
    client = LocalClient(FakeEngine(PLAN), PLAN)
    deltas = await answer(client, order("a", mischief=fake_engine.EXPLODE))
    assert deltas[-1].finish == "error"
    with pytest.raises(Unavailable, match="the engine failed"):
        await anext(client.generate(order("b")))
    await client.close()


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
