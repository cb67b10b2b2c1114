"""What `pagemill bench` shows: how far it is, on stderr; the report; files that were asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from pagemill.cli import text
from pagemill.cli.boundary import print_note
from pagemill.errors import InvalidRequest

if TYPE_CHECKING:
    from pagemill.bench.document import Document
    from pagemill.bench.run import Watch

NOTE_WIDTH = 100


class Silent:
    """For --quiet."""

    def begin(self, what: str, total: int | None) -> None:
        """Nothing."""

    def one(self) -> None:
        """Nothing."""


class Lines:
    """A line for each thing that begins: where nobody watches."""

    def begin(self, what: str, total: int | None) -> None:
        """Say what."""
        print_note(what if total is None else f"{what}, {total} requests")

    def one(self) -> None:
        """Nothing: lines are for what takes long."""


@contextmanager
def watching(*, quiet: bool) -> Iterator[Watch]:
    """Progress bars in a terminal, lines in a log, nothing when quiet."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield bars
    else:
        yield Lines()


@contextmanager
def _bars() -> Iterator[Watch]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Few repaints: the measurement shares this machine.
    progress = Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), refresh_per_second=4
    )

    class Bars:
        task: Any = None

        def begin(self, what: str, total: int | None) -> None:
            if self.task is not None:
                progress.remove_task(self.task)
            self.task = progress.add_task(what, total=total)

        def one(self) -> None:
            progress.advance(self.task)

    with progress:
        yield Bars()


def check_writable(paths: Sequence[Path]) -> None:
    """Refuse a file that cannot be written before minutes are spent on its content."""
    for path in paths:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise InvalidRequest(f"{path} cannot be written: no such folder, or it is one")


def write(path: Path | None, content: Callable[[], bytes | str]) -> None:
    """Write a file if it was asked for."""
    if path is None:
        return
    made = content()
    data = made.encode() if isinstance(made, str) else made
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror or error}") from None
    print_note(f"wrote {path}")


def wrapped(notes: Sequence[str]) -> list[str]:
    """Lines that are no longer than a screen is wide."""
    return [fill(note, NOTE_WIDTH) for note in notes]


def shown(document: Document) -> str:
    """The report as text. Pictures are for the page."""
    from pagemill.bench.document import Table

    width = max((len(label) for label, _ in document.facts), default=0)
    lines = [document.title, ""]
    lines += [f"  {label.ljust(width)}  {value}" for label, value in document.facts]
    for part in document.parts:
        if isinstance(part, Table):
            lines += ["", part.title, text.table(part.header, part.rows), *wrapped(part.notes)]
    if document.notes:
        lines += ["", *wrapped(document.notes)]
    return "\n".join(lines)
