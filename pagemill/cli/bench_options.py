"""The options that commands of `pagemill bench` share, declared once."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pagemill.errors import InvalidRequest

if TYPE_CHECKING:
    from pagemill.bench.load import Load

R = TypeVar("R")
LOAD, SERVERS, RESULTS = "Load", "Servers", "Results"


def _option(help_: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=panel, **more)


def _lengths(whose: str) -> Any:
    help_ = f"Tokens of {whose}: a number, or a range 50-200, or lognormal:50-200."
    return _option(help_, LOAD, metavar="TOKENS")


def _file(help_: str, *names: str) -> Any:
    return _option(help_, RESULTS, *names, metavar="FILE", show_default=False)


@dataclass(frozen=True)
class Asked:
    """What a measurement of servers is asked for, as typed."""

    concurrency: Annotated[str, _option("Users at once.", LOAD, metavar="N,...")] = "1,8,32,50"
    rate: Annotated[
        str, _option("Instead: requests a second, at random times.", LOAD, metavar="N,...")
    ] = ""
    requests: Annotated[
        int, _option("Of each level, one a user at least; 0: also at least 8.", LOAD, min=0)
    ] = 0
    duration: Annotated[float, _option("Seconds in which requests go out.", LOAD, min=0)] = 0.0
    prompt_tokens: Annotated[str, _lengths("a prompt")] = "100"
    output_tokens: Annotated[str, _lengths("an answer")] = "200"
    shared_prefix: Annotated[
        int, _option("Tokens that all prompts begin with.", LOAD, min=0, metavar="TOKENS")
    ] = 0
    warmup: Annotated[int, _option("Requests before, which do not count.", LOAD, min=0)] = 1
    slo: Annotated[
        str, _option("ttft=500ms,tpot=50ms,e2e=10s: counts good answers.", LOAD, metavar="LIST")
    ] = ""
    temperature: Annotated[float, _option("0: always the likeliest token.", LOAD, min=0)] = 0.0
    extra: Annotated[str, _option("More fields of every request.", LOAD, metavar="JSON")] = ""
    seed: Annotated[int, _option("Of lengths, words and arrivals.", LOAD)] = 1
    timeout: Annotated[float, _option("Seconds for one answer.", LOAD, min=1)] = 600.0
    model: Annotated[str, _option("Where a server has several.", SERVERS, metavar="NAME")] = ""
    api: Annotated[
        str,
        _option(
            "auto, completions, chat, ollama-generate or ollama-chat.", SERVERS, metavar="NAME"
        ),
    ] = "auto"
    api_key: Annotated[str, _option("Sent to every server.", SERVERS, metavar="KEY")] = ""
    serve_args: Annotated[
        str, _option('For servers that are started: "--threads 2".', SERVERS, metavar="TEXT")
    ] = ""

    def load(self) -> Load:
        """What is to be sent; InvalidRequest names an option that makes no sense."""
        from pagemill.bench.load import Aim, Lengths, Load, levels

        return Load(
            levels=levels(self.concurrency, self.rate),
            prompt=Lengths.parse(self.prompt_tokens, "--prompt-tokens"),
            output=Lengths.parse(self.output_tokens, "--output-tokens"),
            shared_prefix=self.shared_prefix,
            requests=self.requests,
            duration=self.duration,
            warmup=self.warmup,
            seed=self.seed,
            timeout=self.timeout,
            aim=Aim.parse(self.slo),
            knobs={"temperature": self.temperature, **fields_of(self.extra)},
        )


@dataclass(frozen=True)
class Results:
    """Where results go beside the terminal."""

    json_file: Annotated[Path | None, _file("Write the figures as JSON.", "--json")] = None
    html: Annotated[Path | None, _file("Write a report with pictures, in one file.")] = None
    quiet: Annotated[bool, _option("No progress.", RESULTS, "--quiet")] = False

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.json_file, self.html) if path is not None]


@dataclass(frozen=True)
class LoadResults(Results):
    """And those of a load."""

    csv: Annotated[Path | None, _file("Write a line for each request.")] = None

    @property
    def paths(self) -> list[Path]:
        return [*Results.paths.fget(self), *([self.csv] if self.csv else [])]  # type: ignore[attr-defined]


def with_options(
    name: str, kind: Callable[..., Any]
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command one option for each field of a dataclass; it receives them as `name`."""

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        keyword = inspect.Parameter.KEYWORD_ONLY
        fields = [
            field.replace(kind=keyword)
            for field in inspect.signature(kind, eval_str=True).parameters.values()
        ]
        names = [field.name for field in fields]

        def called(*args: Any, **kwargs: Any) -> R:
            given = kind(**{name: kwargs.pop(name) for name in names})
            return command(*args, **{name: given}, **kwargs)

        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name != name
        ]
        called.__signature__ = inspect.Signature([*own, *fields])  # type: ignore[attr-defined]
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        return called

    return decorate


def fields_of(text: str) -> dict[str, Any]:
    """An object of JSON; none for no text."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise InvalidRequest(f"--extra is not JSON: {error}", param="extra") from None
    if not isinstance(found, dict):
        raise InvalidRequest(
            f'--extra must be an object, as {{"top_k": 40}}, not {text}', param="extra"
        )
    return found
