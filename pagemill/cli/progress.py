"""Long work in the terminal: size, speed and time left; plain lines where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from pagemill.cli.boundary import print_note
from pagemill.cli.text import size


class News(Protocol):
    """How far a download or the like is. `total` and `completed` are bytes; 0: not known."""

    @property
    def status(self) -> str: ...
    @property
    def total(self) -> int: ...
    @property
    def completed(self) -> int: ...


Report = Callable[[News], None]


@contextmanager
def byte_progress() -> Iterator[Report]:
    """A function that shows each of the news on stderr: stdout belongs to the answer."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("looking", total=None)

        def show(news: News) -> None:
            bar.update(
                task,
                description=news.status,
                total=news.total or None,
                completed=news.completed,
            )

        yield show


class _Lines:
    """One line per change of status and one per ten per cent."""

    def __init__(self) -> None:
        self._last = ("", -1)

    def show(self, news: News) -> None:
        tenth = 10 * news.completed // news.total if news.total else 0
        if (news.status, tenth) == self._last:
            return
        self._last = (news.status, tenth)
        of = f": {size(news.completed)} of {size(news.total)}" if news.total else ""
        print_note(f"{news.status}{of}")
