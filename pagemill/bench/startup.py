"""From nothing to the first token: a server's start, in phases, and the memory it then has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from pagemill.bench.ask import Target, ask
from pagemill.bench.document import UNKNOWN, Bars, Document, Table, ms, number
from pagemill.bench.facts import Facts
from pagemill.bench.own import START_S, own_server
from pagemill.bench.processes import Memory, memory
from pagemill.bench.prompts import Order
from pagemill.bench.run import Watch
from pagemill.bench.samples import middle
from pagemill.bench.servers import Place, first_look
from pagemill.errors import EngineFailure

SCHEMA = 1
PHASES = ("to the open port", "then to the first token")
TOKENS = 4  # of an answer
WARM_RUNS = 1  # not counted: they read the file into the system's cache


@dataclass(frozen=True, slots=True)
class Start:
    """One start. Seconds since the process was created."""

    listening: float
    first_token: float
    second_request: float  # to its first token, from when it was sent
    memory: Memory | None  # of all its processes, right after

    @property
    def phases(self) -> tuple[float, float]:
        """How long each lasted."""
        return self.listening, self.first_token - self.listening


@dataclass(frozen=True, slots=True)
class StartRecord:
    """All starts of a measurement."""

    schema: int
    kind: str
    facts: Facts
    model: str
    starts: list[Start]
    median_first_token: float | None
    interrupted: bool


async def measure_starts(
    model: str, arguments: Sequence[str], runs: int, key: str, watch: Watch, found: list[Start]
) -> None:
    """Start and stop a server again and again; results go to `found` as they come."""
    watch.begin(f"starts of {model}", WARM_RUNS + runs)
    for run in range(WARM_RUNS + runs):
        try:
            start = await _start(model, arguments, key)
        except asyncio.CancelledError:
            return
        if run >= WARM_RUNS:
            found.append(start)
        watch.one()


async def _start(model: str, arguments: Sequence[str], key: str) -> Start:
    """The first request waits in the server while the model loads, as the first user's would."""
    async with own_server(model, arguments) as server:
        target = await first_look(Place(server.url, key=key))
        first = await _first_token(target)
        memory_then = memory(server.pid)
        sent = perf_counter()
        again = await _first_token(target)
        return Start(
            server.listening - server.started,
            first - server.started,
            again - sent,
            memory_then,
        )


async def _first_token(target: Target) -> float:
    """When the first token of a short prompt comes."""
    reply = await ask(target, target.body(Order("The", TOKENS), {}), START_S)
    if reply.answer.error or not reply.answer.arrivals:
        raise EngineFailure(f"no first token: {reply.answer.error or 'an answer without text'}")
    return reply.answer.arrivals[0]


def record(facts: Facts, model: str, starts: Sequence[Start], *, interrupted: bool) -> StartRecord:
    """What --json writes."""
    first = middle([start.first_token for start in starts])
    return StartRecord(SCHEMA, "startup", facts, model, list(starts), first, interrupted)


def report(made: StartRecord) -> Document:
    """Every start, and the median of each column."""
    rows = [[str(i + 1), *_row(start)] for i, start in enumerate(made.starts)]
    columns = [
        *([start.phases[i] for start in made.starts] for i in range(len(PHASES))),
        [start.first_token for start in made.starts],
    ]
    medians = [middle(column) for column in columns]
    rows.append(["median", *map(number, medians), *_rest(made.starts)])
    header = ["start", *PHASES, "all, s", "second request, ms", "processes", "PSS, MiB", "RSS, MiB"]
    notes = [
        "Seconds, of a process that begins with the file in the system's cache. The first request "
        "is sent when the port opens and waits for the model; the second finds everything ready.",
        "Memory of all processes right after the first token; PSS counts shared pages once.",
    ]
    bars = [(f"start {i + 1}", start.phases) for i, start in enumerate(made.starts)]
    return Document(
        f"Starts of {made.model}",
        made.facts.rows(),
        [Table("Starts", header, rows, notes), Bars("Phases", "s", PHASES, bars)],
        ["Stopped before its end."] if made.interrupted else [],
    )


def _row(start: Start) -> list[str]:
    return [*map(number, start.phases), number(start.first_token), *_rest([start])]


def _rest(starts: Sequence[Start]) -> list[str]:
    """Median cells of the second request and of memory."""
    known = [start.memory for start in starts if start.memory is not None]
    cells = [ms(middle([start.second_request for start in starts]))]
    if not known:
        return [*cells, *[UNKNOWN] * 3]
    cells.append(f"{middle([m.processes for m in known]):g}")
    for sizes in ([m.proportional for m in known], [m.resident for m in known]):
        cells.append(f"{(middle(sizes) or 0) / (1 << 20):,.0f}")
    return cells
