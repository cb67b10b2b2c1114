"""Results as they are to be read: titles, tables, pictures, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text under a header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One of a plot's lines; its points go from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over a common axis."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = True
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Named amounts, each of them made of parts; `parts` names these."""

    title: str
    unit: str
    parts: Sequence[str]
    bars: Sequence[tuple[str, Sequence[float]]]
    most: float = 0.0  # where the axis ends; 0: at the longest bar


@dataclass(frozen=True, slots=True)
class Document:
    """A report. `facts` say what was measured with which program on which machine."""

    title: str
    facts: Sequence[tuple[str, str]]
    parts: Sequence[Table | Plot | Bars]
    notes: Sequence[str] = ()


def ms(seconds: float | None) -> str:
    """0.01234 -> "12.3"; three digits are enough of a time."""
    return UNKNOWN if seconds is None else number(1e3 * seconds)


def number(value: float | None) -> str:
    """Three digits, more for large numbers."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def ratio(value: float | None, first: float | None) -> str:
    """How many times the first."""
    if value is None or not first:
        return UNKNOWN
    return f"{value / first:.2f}"
