"""Both doors to a fake engine, and the ways to use them."""

import asyncio
from collections.abc import Callable
from typing import Any

from pagemill.engine.client import Patience, ProcessClient
from pagemill.engine.local import LocalClient
from pagemill.engine.spawn import EngineProcess
from pagemill.types import Delta, Request

Client = LocalClient | ProcessClient
Open = Callable[..., Client]

IMPATIENT = Patience(
    heartbeat_s=0.05, stuck_s=0.3, step_s=30, wait_s=5, pause_s=0.05, most_pause_s=0.1, leave_s=0.2
)


def spawn() -> EngineProcess:
    return EngineProcess("tests.engine.fake_engine")


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
    await requests_run(client, 0)


async def requests_run(client: Client, count: int) -> None:
    """Wait until so many are in the engine."""
    running = -1
    for _ in range(1000):
        running = (await client.stats()).running
        if running == count:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{running} requests run, not {count}")


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it took too long")
