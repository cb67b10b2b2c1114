"""What parts of a measurement find, line by line, as they go from process to process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table."""

    what: str
    size: str
    figure: float
    unit: str
    share: float | None = None  # percent of the nearest limit
    limit: str = ""  # which one that is
    beside: float | None = None  # the time of torch's own call divided by ours: over 1, ours pays
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """Of a part: a figure, or why something has none. `failed` is an error, `skipped` is not."""

    part: str
    row: Row | None = None
    skipped: str = ""
    failed: str = ""


def append(path: Path, line: Line) -> None:
    """At once: the process may not live to write another."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")


def read(path: Path) -> list[Line]:
    """All whole lines; the last may be cut where a process was ended."""
    raw = path.read_bytes() if path.exists() else b""
    whole = raw.split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Line) for line in whole]


def rows(lines: Iterable[Line]) -> list[Row]:
    """The figures among them."""
    return [line.row for line in lines if line.row is not None]
