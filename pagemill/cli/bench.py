"""`pagemill bench`: its commands, and where the servers come from that they measure."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from pagemill.cli.bench_options import Asked, LoadResults, Results, with_options
from pagemill.cli.boundary import INTERRUPTED, boundary, print_note
from pagemill.cli.options import with_settings
from pagemill.config import Settings
from pagemill.errors import InvalidRequest, Unsupported

if TYPE_CHECKING:
    from pagemill.bench.ask import Target
    from pagemill.bench.document import Document
    from pagemill.bench.facts import Facts
    from pagemill.bench.measure import Measured
    from pagemill.bench.run import Watch

_URL = re.compile(r"([^=]*=)?([a-z]+://|localhost[:/]|\d+\.\d+\.\d+\.\d+|\[)")

bench = typer.Typer(
    name="bench",
    help="Measure servers under load, starts, and the kernels on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@bench.command("serve")
@boundary
@with_settings()
@with_options("asked", Asked)
@with_options("results", LoadResults)
def bench_serve(
    target: Annotated[
        str, typer.Argument(metavar="URL|MODEL", help="A running server, or a model to serve.")
    ],
    *,
    asked: Asked,
    results: LoadResults,
    settings: Settings,
) -> None:
    """Load on one server: throughput, time to the first token, gaps between tokens."""
    _under_load("serve", [target], 1, asked, results, settings)


@bench.command("compare")
@boundary
@with_settings()
@with_options("asked", Asked)
@with_options("results", LoadResults)
def bench_compare(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]URL|MODEL...", help="URL#MODEL names one of several models."
        ),
    ],
    rounds: Annotated[int, typer.Option(min=1, help="The servers take turns so often.")] = 3,
    *,
    asked: Asked,
    results: LoadResults,
    settings: Settings,
) -> None:
    """The same load on several servers in turns: medians, ratios, where their lines cross."""
    if len(targets) < 2:
        raise InvalidRequest("compare needs at least two servers; `bench serve` measures one")
    _under_load("compare", targets, rounds, asked, results, settings)


@bench.command("startup")
@boundary
@with_settings()
@with_options("results", Results)
def bench_startup(
    model: Annotated[str, typer.Argument(help="What `pagemill serve` is to start with.")],
    runs: Annotated[int, typer.Option(min=1, help="Starts that count.")] = 5,
    serve_args: Annotated[
        str, typer.Option(metavar="TEXT", help='For the server: "--threads 2".')
    ] = "",
    *,
    results: Results,
    settings: Settings,
) -> None:
    """Cold process to first token, in phases, and the memory of a server that has started."""
    from pagemill.bench import startup
    from pagemill.bench.measure import until_signal
    from pagemill.cli import bench_show as show

    show.check_writable(results.paths)
    ensure_model(model, settings)
    found: list[startup.Start] = []
    arguments = shlex.split(serve_args)
    with show.watching(quiet=results.quiet) as watch:
        _, interrupted = until_signal(
            lambda: startup.measure_starts(model, arguments, runs, _own_key(settings), watch, found)
        )
    if found:
        made = startup.record(_facts(), model, found, interrupted=interrupted)
        _publish(made, startup.report(made), results)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


@bench.command("ops")
@boundary
@with_options("results", Results)
def bench_ops(
    threads: Annotated[int, typer.Option(min=0, help="0: all cores.")] = 0,
    isa: Annotated[str, typer.Option(help="avx512_bf16, avx512, avx2, neon, portable.")] = "auto",
    formats: Annotated[
        str, typer.Option(metavar="LIST", help="Of weights: q8_0,q4_k; else all.")
    ] = "",
    rows: Annotated[str, typer.Option(metavar="N,...", help="Of products.")] = "1,8,50,256",
    *,
    results: Results,
) -> None:
    """Each kernel beside what this machine can do at most, measured now."""
    from pagemill.cli import bench_show as show
    from pagemill.machine import this_machine

    try:
        from pagemill.bench import kernels
        from pagemill.ops.cpu import CpuOps
    except ImportError as error:
        raise Unsupported(f"the native kernels are not installed here: {error}") from None
    show.check_writable(results.paths)
    names = kernels.known_formats(formats)
    counts = kernels.row_counts(rows)
    try:
        ops = CpuOps(threads or this_machine().cores, isa)
    except ValueError as error:
        raise InvalidRequest(f"--isa {isa}: {error}", param="isa") from None
    limits: list[kernels.Limits] = []
    found: list[kernels.Timed] = []
    interrupted = False
    try:
        with show.watching(quiet=results.quiet) as watch:
            for timed in kernels.kernels(ops, names, counts, limits, watch):
                found.append(timed)
    except KeyboardInterrupt:
        interrupted = True
    if found:
        made = kernels.record(_facts(), ops, limits, found, interrupted=interrupted)
        _publish(made, kernels.report(made), results)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _facts() -> Facts:
    from pagemill.bench.facts import Facts

    return Facts.now(["pagemill", *sys.argv[1:]])


def _publish(record: object, document: Document, results: Results) -> None:
    """Print a report and write its files."""
    import msgspec

    from pagemill.bench.page import page
    from pagemill.cli import bench_show as show

    typer.echo(show.shown(document))
    show.write(results.json_file, lambda: msgspec.json.format(msgspec.json.encode(record)))
    show.write(results.html, lambda: page(document))


def _own_key(settings: Settings) -> str:
    """The one that a server of ours would want."""
    return settings.http.api_key[0] if settings.http.api_key else ""


def _under_load(
    kind: str,
    texts: Sequence[str],
    rounds: int,
    asked: Asked,
    results: LoadResults,
    settings: Settings,
) -> None:
    """Measure, tell, write; whatever was measured until Ctrl-C is told too."""
    from pagemill.bench import tell
    from pagemill.bench.measure import measure, until_signal
    from pagemill.cli import bench_show as show

    load = asked.load()
    show.check_writable(results.paths)
    targets: list[Target] = []
    found: list[Measured] = []

    async def work(watch: Watch) -> None:
        async with AsyncExitStack() as started:
            for text in texts:
                targets.append(await _target(text, asked, settings, started))
            _check_names(targets)
            await measure(targets, load, rounds, watch, found)

    with show.watching(quiet=results.quiet) as watch:
        _, interrupted = until_signal(lambda: work(watch))
    if found:
        record = tell.record(kind, _facts(), load, targets, found)
        document = (tell.one_server if kind == "serve" else tell.several_servers)(record, load)
        _publish(record, document, results)
        show.write(results.csv, lambda: tell.samples_csv(found))
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if not any(sample.good for measured in found for sample in measured.run.samples):
        raise typer.Exit(1)


async def _target(text: str, asked: Asked, settings: Settings, started: AsyncExitStack) -> Target:
    """A server that answers; one of ours is started for a model and stopped at the end."""
    from pagemill.bench.own import own_server, until_ready
    from pagemill.bench.servers import Place, examine
    from pagemill.bench.wire import Address

    key = asked.api_key
    own_key = _own_key(settings)
    if _URL.match(text):
        place = Place.parse(text, model=asked.model, api=asked.api)
        if not Address.parse(place.url).is_here:
            print_note(f"{place.url} is another machine: its network is measured too")
        elif not key:
            key = own_key
    else:
        name, equals, model = text.partition("=")
        if not equals:
            name, model = "", text
        ensure_model(model, settings)
        print_note(f"starting a server for {model}")
        server = await started.enter_async_context(own_server(model, shlex.split(asked.serve_args)))
        await until_ready(server)
        key = own_key
        place = Place(server.url, name, api=asked.api)
    target = await examine(replace(place, key=key))
    return target if place.name or _URL.match(text) else replace(target, name=target.model)


def ensure_model(model: str, settings: Settings) -> None:
    """Pull a model that is not here."""
    from pagemill.cli import models as here

    here.ensure(model, settings)


def _check_names(targets: Sequence[Target]) -> None:
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"two servers are called {name}: name them, as one=URL")
