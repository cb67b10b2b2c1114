"""How measurements of servers read: documents of one server and of several, and records for other
programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from pagemill.bench.ask import Target
from pagemill.bench.compared import MEASURES, Crossing, Standing, crossings, standings
from pagemill.bench.document import (
    UNKNOWN,
    Document,
    Line,
    Plot,
    Table,
    ms,
    number,
    ratio,
)
from pagemill.bench.facts import Facts
from pagemill.bench.load import Load
from pagemill.bench.measure import Measured
from pagemill.bench.samples import Summary

SCHEMA = 1
BUSY_CLIENT = 0.5  # of a core: from there on the client may be what is measured
CSV_FIELDS = (
    *("server", "level", "round", "asked_s", "late_s", "first_token_s", "per_token_s", "end_s"),
    *("prompt_tokens", "cached_tokens", "output_tokens", "counted", "wanted", "pieces"),
    *("finish", "error"),
)


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """Who was measured."""

    name: str
    url: str
    software: str
    model: str
    api: str
    equal_lengths: bool
    tokens_per_word: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One level of one round."""

    server: str
    round: int
    summary: Summary


@dataclass(frozen=True, slots=True)
class ServeRecord:
    """All of a measurement, for other programs. Times in seconds."""

    schema: int
    kind: str
    facts: Facts
    servers: list[ServerRecord]
    load: Load
    runs: list[RunRecord]
    standings: list[Standing]
    crossings: list[Crossing]
    interrupted: bool


def record(
    kind: str, facts: Facts, load: Load, targets: Sequence[Target], found: Sequence[Measured]
) -> ServeRecord:
    """What --json writes."""
    all_ = standings(found, load)
    return ServeRecord(
        SCHEMA,
        kind,
        facts,
        [
            ServerRecord(
                t.name, t.wire.address.url, t.software, t.model, t.dialect.name,
                t.equal_lengths, t.scale.each,
            )
            for t in targets
        ],
        load,
        [RunRecord(m.target.name, m.round_, Summary.of(m.run, load.aim)) for m in found],
        all_,
        crossings(all_) if len(targets) > 1 else [],
        any(m.run.stopped for m in found),
    )  # fmt: skip


def samples_csv(found: Sequence[Measured]) -> str:
    """One line a request."""
    out = io.StringIO()
    write = csv.writer(out)
    write.writerow(CSV_FIELDS)
    for measured in found:
        for s in measured.run.samples:
            times = (s.asked, s.late, s.first, s.per_token, s.end)
            write.writerow(
                [
                    measured.target.name,
                    measured.run.level,
                    measured.round_ + 1,
                    *("" if time is None else f"{time:.6f}" for time in times),
                    *(s.prompt_tokens, s.cached_tokens, s.tokens, s.counted, s.wanted),
                    *(len(s.gaps) + 1 if s.last else 0, s.finish, s.error),
                ]
            )
    return out.getvalue()


def one_server(made: ServeRecord, load: Load) -> Document:
    """The report of `bench serve`."""
    target = made.servers[0]
    runs = [run.summary for run in made.runs]
    facts = [*made.facts.rows(), ("server", _server(target)), ("load", _load(load))]
    parts: list[Table | Plot] = [_throughput(runs, load), _latencies(runs)]
    if len(runs) > 1:
        x = _x(load)
        parts.append(
            Plot(
                "Throughput",
                x,
                "output tokens/s",
                [Line("", [(run.amount, run.tokens_per_s) for run in runs])],
            )
        )
        times = [
            (name, [(r.amount, 1e3 * getattr(r.first_token, share)) for r in runs if r.first_token])
            for name, share in (("p50", "p50"), ("p99", "p99"))
        ]
        lines = [Line(name, points) for name, points in times]
        parts.append(Plot("Time to the first token", x, "ms", lines))
    return Document(f"{target.name} under load", facts, parts, _remarks(made, load))


def several_servers(made: ServeRecord, load: Load) -> Document:
    """The report of `bench compare`."""
    facts = list(made.facts.rows())
    facts += [(server.name, _server(server)) for server in made.servers]
    facts.append(("load", _load(load)))
    x, names = _x(load), [server.name for server in made.servers]
    parts: list[Table | Plot] = [_compared(made)]
    for title, read, _ in MEASURES:
        scale, unit = (1.0, "output tokens/s") if title == "throughput" else (1e3, "ms")
        lines = []
        for name in names:
            mine = [(s.amount, read(s)) for s in made.standings if s.server == name]
            lines.append(Line(name, [(a, scale * v) for a, v in mine if v is not None]))
        parts.append(Plot(title[0].upper() + title[1:], x, unit, lines))
    return Document(" and ".join(names), facts, parts, _remarks(made, load))


def _throughput(runs: Sequence[Summary], load: Load) -> Table:
    header = ["level", "ok", "tokens/s", "requests/s"]
    header += ["good/s"] if load.aim.limits else []
    header += ["prompt", "cached", "answer", "client µs/token", "client % of a core"]
    rows = []
    for run in runs:
        row = [run.level, f"{run.good}/{run.requests}", number(run.tokens_per_s)]
        row.append(number(run.requests_per_s))
        row += [number(run.goodput)] if load.aim.limits else []
        share = (
            f"{100 * run.cached_tokens / run.prompt_tokens:.0f} %" if run.prompt_tokens else UNKNOWN
        )
        prompt = run.prompt_tokens / run.good if run.prompt_tokens and run.good else None
        row += [number(prompt), share, number(run.output_tokens / run.good if run.good else None)]
        row += [number(run.client_us_per_token), f"{100 * run.client_share:.1f}"]
        rows.append(row)
    notes = ["prompt, cached and answer: tokens of a request on average."]
    if load.aim.limits:
        notes.append(f"good/s: requests a second with {load.aim}.")
    return Table("Throughput", header, rows, notes)


def _latencies(runs: Sequence[Summary]) -> Table:
    rows = []
    for run in runs:
        spreads = (
            ("first token", run.first_token),
            ("gap between pieces", run.gap),
            ("per token after the first", run.per_token),
            ("end to end", run.end_to_end),
        )
        for name, spread in spreads:
            if spread is not None:
                values = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99)
                rows.append([run.level, name, *(ms(value) for value in values)])
    return Table("Times, ms", ["level", "time", "mean", "p50", "p90", "p95", "p99"], rows)


def _compared(made: ServeRecord) -> Table:
    firsts = {s.level: s for s in made.standings if s.server == made.servers[0].name}
    aimed = any(s.goodput is not None for s in made.standings)
    rows = []
    for s in made.standings:
        first = firsts.get(s.level, s)
        row = [s.level, s.server, f"{s.good}/{s.requests}"]
        row += [number(s.tokens_per_s), ratio(s.tokens_per_s, first.tokens_per_s)]
        row += [number(s.goodput)] if aimed else []
        row += [ms(s.first_token_p50), ratio(s.first_token_p50, first.first_token_p50)]
        row += [ms(s.first_token_p99), ms(s.gap_p50), ratio(s.gap_p50, first.gap_p50)]
        row.append(ms(s.gap_p99))
        rows.append(row)
    header = ["level", "server", "ok", "tokens/s", "ratio"] + (["good/s"] if aimed else [])
    header += ["first token p50", "ratio", "p99", "gap p50", "ratio", "p99"]
    rounds = max((s.rounds for s in made.standings), default=0)
    note = (
        f"Medians of {rounds} rounds in turns; times in ms; ratios to {made.servers[0].name}: more "
        f"tokens are better, longer times worse."
    )
    return Table("Compared", header, rows, [note])


def _remarks(made: ServeRecord, load: Load) -> list[str]:
    """What one has to know to read the figures right."""
    notes = []
    for c in made.crossings:
        low, high = c.between
        notes.append(
            f"{c.measure}: {c.server} overtakes {c.other} at about {number(c.amount)} "
            f"{_x(load)} (measured at {low:g} and {high:g})."
        )
    if len(made.servers) > 1 and not made.crossings and len(load.levels) > 1:
        notes.append("No lines cross between the measured levels.")
    by_name: dict[str, list[Summary]] = {}
    for run in made.runs:
        by_name.setdefault(run.server, []).append(run.summary)
    for server in made.servers:
        notes += _honest(server, by_name.get(server.name, ()))
    if made.interrupted:
        notes.append("Stopped before its end: the last level has only the answers until then.")
    return notes


def _honest(server: ServerRecord, runs: Sequence[Summary]) -> list[str]:
    notes = []
    if any("pieces" in run.counted for run in runs):
        notes.append(
            f"{server.name} does not say how many tokens it sent: pieces of text are counted, and "
            f"a piece may be several tokens."
        )
    if other := sum(run.other_length for run in runs):
        why = "though asked to" if server.equal_lengths else "it cannot be asked to"
        notes.append(
            f"{server.name}: {other} of {sum(run.good for run in runs)} answers are not as long as "
            f"wanted ({why}); the real lengths are counted."
        )
    errors: dict[str, int] = {}
    for run in runs:
        for text, count in run.errors:
            errors[text] = errors.get(text, 0) + count
    notes += [f"{server.name}: {count} failed: {text}" for text, count in errors.items()]
    if any(run.client_share > BUSY_CLIENT for run in runs):
        notes.append(
            f"{server.name}: this client used more than half a core; it may be what was measured."
        )
    return notes


def _x(load: Load) -> str:
    return "users" if all(level.users for level in load.levels) else "requests/s"


def _server(server: ServerRecord) -> str:
    software = server.software or "unknown software"
    return f"{software}, model {server.model}, {server.api}, {server.url}"


def _load(load: Load) -> str:
    text = f"prompts of {load.prompt} tokens, answers of {load.output}"
    if load.shared_prefix:
        text += f", the first {load.shared_prefix} shared"
    knobs = ", ".join(f"{name} {value}" for name, value in load.knobs.items())
    return f"{text}; {knobs + '; ' if knobs else ''}seed {load.seed}"
