"""Presses a server: users who ask again and again, or requests that arrive by the clock."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Protocol

from pagemill.bench.ask import Target, ask, sample
from pagemill.bench.load import Level, Load
from pagemill.bench.prompts import Order, orders, words
from pagemill.bench.samples import Run, Sample

WARMUP_TOKENS = 16


class Watch(Protocol):
    """Somebody who wants to know how far it is."""

    def begin(self, what: str, total: int | None) -> None:
        """Something of `total` requests begins; None: nobody knows how many."""
        ...

    def one(self) -> None:
        """A request has ended."""
        ...


@dataclass
class _Level:
    """A level under way."""

    target: Target
    load: Load
    watch: Watch
    start: float = field(default_factory=perf_counter)
    samples: list[Sample] = field(default_factory=list)

    async def one(self, order: Order, due: float) -> None:
        """Send one request that was due at a time since the start, and note what came."""
        begun = self.start + due
        body = self.target.body(order, self.load.knobs)
        taken = await sample(
            self.target, order, body, self.load.timeout, lambda moment: moment - begun
        )
        self.samples.append(replace(taken, asked=due))
        self.watch.one()

    async def user(self, queue: Iterator[Order], until: float) -> None:
        """Ask, wait for the answer, ask again."""
        for order in queue:
            await self.one(order, perf_counter() - self.start)
            if perf_counter() - self.start >= until:
                return

    async def arrivals(self, queue: Iterator[Order], rate: float, until: float) -> None:
        """Requests at random times (a Poisson process), whether the earlier are answered or not."""
        rng = random.Random(f"arrivals/{self.load.seed}/{rate}")  # noqa: S311
        under_way: set[asyncio.Task[None]] = set()
        due = 0.0
        try:
            for order in queue:
                await asyncio.sleep(max(0.0, self.start + due - perf_counter()))
                task = asyncio.create_task(self.one(order, due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                due += rng.expovariate(rate)
                if due >= until:
                    break
            await asyncio.gather(*under_way)
        finally:
            for task in list(under_way):
                task.cancel()


async def press(
    target: Target, load: Load, level: Level, round_: int, fresh: str, watch: Watch
) -> Run:
    """One level of load on one server. A cancelled one returns what has ended until then."""
    number, until = load.limits(level)
    queue = _first(orders(load, level, round_, target.scale, fresh), number)
    watch.begin(f"{target.name}: {level}", None if until != float("inf") else number)
    cpu = time.process_time()
    under_way = _Level(target, load, watch)
    stopped = False
    try:
        if level.users:
            users = (under_way.user(queue, until) for _ in range(min(level.users, number)))
            await asyncio.gather(*users)
        else:
            await under_way.arrivals(queue, level.rate, until)
    except asyncio.CancelledError:
        stopped = True
    wall = perf_counter() - under_way.start
    taken = time.process_time() - cpu
    return Run(level, tuple(under_way.samples), wall, taken, stopped)


async def warm_up(target: Target, load: Load, watch: Watch) -> None:
    """Short answers that nobody counts: the server's first requests pay for what it sets up."""
    if load.warmup:
        watch.begin(f"{target.name}: warm-up", load.warmup)
    for _ in range(load.warmup):
        fresh = random.Random(time.time_ns())  # noqa: S311
        prompt = " ".join(words(fresh, target.scale.words(load.prompt.low)))
        body = target.body(Order(prompt, min(WARMUP_TOKENS, load.output.high)), load.knobs)
        await ask(target, body, load.timeout)
        watch.one()


def _first(queue: Iterator[Order], number: int) -> Iterator[Order]:
    """So many of them, shared by all who take."""
    for order, _ in zip(queue, range(number), strict=False):
        yield order
