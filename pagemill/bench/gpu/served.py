"""Tokens a second through HTTP: a server of its own with a file of random weights."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import uvloop

from pagemill.bench.gpu.bench import Bench, Skip, Task
from pagemill.bench.gpu.found import Row
from pagemill.bench.gpu.llama import write
from pagemill.bench.load import Lengths, Level, Load
from pagemill.bench.own import own_server, until_ready
from pagemill.bench.run import press, warm_up
from pagemill.bench.samples import Summary
from pagemill.bench.servers import Place, examine


class _Nobody:
    """Whom nothing is shown."""

    def begin(self, what: str, total: int | None) -> None: ...

    def one(self) -> None: ...


def tasks(bench: Bench) -> Iterator[Task]:
    """The small network, on graphs and without."""
    for eager in (False, True):
        yield Task(f"HTTP{', eager' if eager else ''}", partial(_served, bench, eager))


def _served(bench: Bench, eager: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="pagemill-bench-") as folder:
        path = Path(folder) / "untrained.gguf"
        write(bench.sizes.small, path)
        found: list[Row] = []
        try:
            uvloop.run(asyncio.wait_for(_press(bench, path, eager, found), max(1.0, bench.left)))
        except TimeoutError:
            yield from found
            raise Skip("its time was up") from None
        yield from found


async def _press(bench: Bench, path: Path, eager: bool, found: list[Row]) -> None:
    sizes = bench.sizes
    length = sizes.prompt + sizes.answer + 4 * sizes.page
    arguments = [
        *("--backend", "cuda" if bench.on_card else "torch", "--device", str(bench.device)),
        *("--max-num-seqs", str(max(sizes.users)), "--max-model-len", str(length)),
        *(["--enforce-eager"] if eager else []),
    ]
    how = "eager" if eager else "graphs"
    name = f"HTTP, {sizes.small.name}, {how}"
    async with own_server(str(path), arguments) as server:
        await until_ready(server)
        target = await examine(Place(server.url))
        for users in sizes.users:
            load = Load(
                (Level(users),),
                Lengths(sizes.prompt, sizes.prompt),
                Lengths(sizes.answer, sizes.answer),
                requests=users,
                knobs={"temperature": 0.0},
            )
            if users == sizes.users[0]:
                await warm_up(target, load, _Nobody())
            run = await press(target, load, load.levels[0], 0, secrets.token_hex(8), _Nobody())
            summary = Summary.of(run, load.aim)
            note = "" if summary.good == users else f"{summary.good} of {users} answered"
            size = f"{users} users, {sizes.prompt} + {sizes.answer}"
            found.append(Row(name, size, summary.tokens_per_s or 0.0, "tok/s", note=note))
