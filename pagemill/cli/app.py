"""The commands and their options. Each imports what it needs when it runs, and nothing before."""

from __future__ import annotations

import sys
from copy import copy
from pathlib import Path
from typing import Annotated, Any

import typer

from pagemill.cli.bench import bench
from pagemill.cli.boundary import boundary, print_note
from pagemill.cli.options import with_settings
from pagemill.config import Settings


def _spelled(name: Any) -> Any:
    """folder/file.gguf means ./folder/file.gguf when there is such a file; so do model folders."""
    if isinstance(name, list | tuple):
        return [_spelled(one) for one in name]
    if not isinstance(name, str) or name.startswith((".", "/", "~")):
        return name
    there = Path(name).is_file() if name.endswith(".gguf") else Path(name, "config.json").is_file()
    return f"./{name}" if there else name


Model = Annotated[
    str,
    typer.Argument(
        help="smollm2, org/repo, hf.co/org/repo:Q4_K_M, ./file.gguf or ./folder", callback=_spelled
    ),
]
Models = Annotated[list[str], typer.Argument(help="One or more models.", callback=_spelled)]
Url = Annotated[
    str, typer.Option("--url", help="A server, as http://host:port; else the configured address.")
]

Revision = Annotated[
    str, typer.Option(metavar="REV", help="A repository's branch, tag or commit: org/repo@REV.")
]

app = typer.Typer(
    name="pagemill",
    help="Run language models on this machine: in the terminal, or as a server for many.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench)


def run_app(arguments: list[str]) -> int:
    """Parse and run one command line; its exit code."""
    try:
        _narrowed(arguments)(arguments, prog_name="pagemill")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _narrowed(arguments: list[str]) -> typer.Typer:
    """The program with no command but the one that is asked for: to make the options of all takes
    longer than most of them run. All of it for help, and for what is no command."""
    asked = [
        command
        for command in app.registered_commands
        if command.callback and arguments[:1] == [command.name or command.callback.__name__]
    ]
    if not asked:
        return app
    narrow = copy(app)
    narrow.registered_commands, narrow.registered_groups = asked, []
    return narrow


def _version(wanted: bool) -> None:
    if wanted:
        from pagemill import __version__

        typer.echo(f"pagemill {__version__}")
        raise typer.Exit


def _number(help_: str) -> Any:
    """An option that stays text: one reader checks knobs, whoever turns them."""
    return typer.Option(metavar="NUMBER", help=help_, show_default=False)


@app.callback()
def pagemill(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Run language models on this machine: in the terminal, or as a server for many."""


@app.command()
@boundary
@with_settings("engine", "text", "hub")
def run(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="Without one: a chat in the terminal.")] = "",
    system: Annotated[str, typer.Option(metavar="TEXT", help="The system message.")] = "",
    temperature: Annotated[str, _number("0: always the likeliest token.")] = "",
    top_p: Annotated[str, _number("Only tokens that add up to this share.")] = "",
    top_k: Annotated[str, _number("Only this many of the likeliest tokens.")] = "",
    repetition_penalty: Annotated[str, _number("Over 1: avoid what was said; 1: off.")] = "",
    max_tokens: Annotated[str, _number("Longest answer, in tokens.")] = "",
    seed: Annotated[str, _number("The same seed, the same answer.")] = "",
    verbose: Annotated[bool, typer.Option("--verbose", help="Show timings.")] = False,
    nowordwrap: Annotated[bool, typer.Option("--nowordwrap", help="Leave lines long.")] = False,
    url: Url = "",
    revision: Revision = "",
    *,
    settings: Settings,
) -> None:
    """Ask a model, or chat with it. Uses a running server if there is one."""
    from pagemill.cli.models import at_revision
    from pagemill.cli.run import RunOrder
    from pagemill.cli.run import run as answer
    from pagemill.cli.talk import Knobs

    given = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    knobs = Knobs()
    for name, text in given.items():
        knobs = knobs.with_text(name, text) if text else knobs
    [model] = at_revision([model], revision)
    order = RunOrder(model, prompt, knobs, system, verbose, not nowordwrap, url)
    raise typer.Exit(answer(order, settings, None if sys.stdin.isatty() else sys.stdin))


@app.command()
@boundary
@with_settings("engine", "text", "http", "hub")
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="None: every model on this machine.", callback=_spelled),
    ] = None,
    preload: Annotated[
        bool,
        typer.Option("--preload", help="Load before the first use (a single model always is)."),
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Validate everything and exit.")] = False,
    revision: Revision = "",
    *,
    settings: Settings,
) -> None:
    """Serve models over HTTP, with OpenAI's API, to many at once."""
    from pagemill.cli.models import at_revision
    from pagemill.cli.serve import check_only
    from pagemill.cli.serve import serve as start

    names = at_revision(models or [], revision)
    if check:
        typer.echo(check_only(names, settings))
    else:
        start(names, settings, preload=preload)


@app.command()
@boundary
@with_settings("hub")
def pull(models: Models, revision: Revision = "", *, settings: Settings) -> None:
    """Download models."""
    from pagemill.cli import models as here

    for name in here.at_revision(models, revision):
        model = here.pull(name, settings)
        typer.echo(f"{model.name} is ready: `pagemill run {model.name}`")


@app.command("list")
@boundary
@with_settings("hub")
def list_models(*, settings: Settings) -> None:
    """List the models on this machine."""
    from pagemill.cli import models as here

    stored = here.open_store(settings).list()
    typer.echo(here.list_table(stored))
    if not stored:
        print_note("No models yet: `pagemill pull smollm2` fetches a small one.")


app.command("ls", hidden=True)(list_models)


@app.command()
@boundary
@with_settings("text", "hub")
def show(
    model: Model,
    template: Annotated[bool, typer.Option("--template", help="Only the chat template.")] = False,
    license_: Annotated[bool, typer.Option("--license", help="Only the licence.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="All metadata.")] = False,
    *,
    settings: Settings,
) -> None:
    """Show what a model is."""
    from pagemill.cli.show import show as describe

    what = "template" if template else "license" if license_ else "metadata" if verbose else "card"
    typer.echo(describe(model, settings, what))


@app.command()
@boundary
@with_settings("engine", "hub")
def plan(
    model: Model,
    ctx: Annotated[int, typer.Option("--ctx", min=0, help="Tokens of each user.")] = 0,
    users: Annotated[int, typer.Option("--users", min=0, help="So many at once.")] = 0,
    *,
    settings: Settings,
) -> None:
    """Say what a model would take of this machine's memory, and whether it fits."""
    from pagemill.cli.plan import plan as make

    report, fits = make(model, settings, ctx, users)
    typer.echo(report)
    raise typer.Exit(0 if fits else 1)


@app.command()
@boundary
@with_settings("hub")
def rm(models: Models, *, settings: Settings) -> None:
    """Remove models from this machine."""
    from pagemill.cli import models as here

    for name in here.remove(models, settings):
        typer.echo(f"removed {name}")


@app.command()
@boundary
@with_settings("hub")
def verify(*, settings: Settings) -> None:
    """Read every stored model again and compare it with its hash."""
    from pagemill.cli import models as here

    report, whole = here.verify(settings)
    typer.echo(report)
    raise typer.Exit(0 if whole else 1)


@app.command("import")
@boundary
@with_settings("hub")
def import_models(
    path: Annotated[str, typer.Argument(help="A GGUF file, or the folder of a model.")] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call it here.")] = "",
    copy: Annotated[bool, typer.Option("--copy", help="Copy it into the store.")] = False,
    scan: Annotated[
        bool, typer.Option("--scan", help="List models of other programs on this machine.")
    ] = False,
    add: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="List this one of them here, too.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List all of them here, too.")] = False,
    *,
    settings: Settings,
) -> None:
    """Use models that are on this machine already, where they lie."""
    from pagemill.cli import imports

    if scan or add or every:
        typer.echo(imports.scan(settings, add or [], every=every, copy=copy))
    else:
        typer.echo(imports.take(path, name, settings, copy=copy))


@app.command()
@boundary
@with_settings("hub")
def quantize(
    source: Model,
    target: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE.gguf")],
    type_: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="q4_K_M, q8_0, f16, ... (docs/formats.md)")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="0: all cores.")] = 0,
    *,
    settings: Settings,
) -> None:
    """Write a smaller copy of a model, its matrices rounded to fewer bits."""
    from pagemill.cli.quantize import quantize as write

    typer.echo(write(source, target, type_, settings, overwrite=overwrite, threads=threads))


@app.command()
@boundary
@with_settings("hub")
def create(
    name: Annotated[str, typer.Argument(help="What to call the new model: mine, mine:1b.")],
    base: Annotated[
        str,
        typer.Option("--from", metavar="MODEL", help="Made from this one.", callback=_spelled),
    ] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Made as a Modelfile says.")
    ] = None,
    quantize_: Annotated[
        str, typer.Option("--quantize", "-q", metavar="TYPE", help="With weights of this type.")
    ] = "",
    *,
    settings: Settings,
) -> None:
    """Make a model from another: with its own settings, with smaller weights, or both."""
    from pagemill.cli.create import Order
    from pagemill.cli.create import create as make

    typer.echo(make(Order(name, base, file, quantize_), settings))


@app.command()
@boundary
@with_settings()
def ps(url: Url = "", *, settings: Settings) -> None:
    """List the models that a running server has in memory."""
    from pagemill.cli.manage import find_server, ps_table

    typer.echo(ps_table(find_server(settings, url).loaded()))


@app.command()
@boundary
@with_settings()
def stop(model: Model, url: Url = "", *, settings: Settings) -> None:
    """Take a model out of a running server's memory."""
    from pagemill.cli import manage

    typer.echo(f"stopped {manage.stop(manage.find_server(settings, url), model)}")


@app.command()
@boundary
@with_settings()
def doctor(*, settings: Settings) -> None:
    """Explain this machine in plain words, and what to repair."""
    from pagemill.cli.doctor import examine, report

    text, code = report(examine(settings))
    typer.echo(text)
    raise typer.Exit(code)
