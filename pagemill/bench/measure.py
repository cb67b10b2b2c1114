"""Whole measurements: one server level by level, or several in turns."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from pagemill.bench.ask import Target
from pagemill.bench.load import Load
from pagemill.bench.run import Watch, press, warm_up
from pagemill.bench.samples import Run

SETTLE_S = 2.0  # before another server's turn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """A run, and whose it is."""

    target: Target
    round_: int
    run: Run


async def measure(
    targets: Sequence[Target], load: Load, rounds: int, watch: Watch, found: list[Measured]
) -> None:
    """Every level, round by round, the servers in turns: a slow minute of the machine meets all.

    Some servers' threads spin on for a second after the last answer, so there is a pause after each
    turn: the next server must not pay for it.

    Results go to `found` as they come. A stopped run is the last one.
    """
    fresh = secrets.token_hex(8)
    for target in targets:
        await warm_up(target, load, watch)
    for round_ in range(rounds):
        for level in load.levels:
            for target in targets:
                if len(targets) > 1:
                    await asyncio.sleep(SETTLE_S)
                run = await press(target, load, level, round_, fresh, watch)
                found.append(Measured(target, round_, run))
                if run.stopped:
                    return


def until_signal(work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T | None, bool]:
    """Run `work`; the first Ctrl-C or SIGTERM cancels it, so that servers are stopped and what was
    measured is told. Its result, and whether it was cut short."""
    return uvloop.run(_watched(work))


async def _watched(work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T | None, bool]:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(work())
    signalled = False

    def stop() -> None:
        nonlocal signalled
        signalled = True
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await task, signalled
    except asyncio.CancelledError:
        return None, True
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
