"""All that was found as one table of text, and as JSON for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pagemill.bench.document import UNKNOWN, number
from pagemill.bench.facts import Facts
from pagemill.bench.gpu.found import Line, Row

SCHEMA = 1
_HEADER = ("part", "what", "size", "figure", "unit", "% of limit", "limit", "torch / ours", "note")
_RIGHT = (3, 5, 7)  # columns of numbers


@dataclass(frozen=True, slots=True)
class Record:
    """A whole measurement."""

    schema: int
    facts: Facts
    device: str
    software: str
    seconds: float
    lines: list[Line]


def as_json(record: Record) -> bytes:
    """Indented."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def as_text(record: Record) -> str:
    """Facts, the table, then what was skipped and what failed."""
    cells = [_HEADER, *(_cells(line.part, line.row) for line in record.lines if line.row)]
    facts = [*record.facts.rows(), ("device", record.device), ("software", record.software)]
    parts = [f"{name}: {value}" for name, value in facts]
    parts += ["", *_aligned(cells), ""]
    parts += [f"skipped, {line.part}: {line.skipped}" for line in record.lines if line.skipped]
    failed = [line for line in record.lines if line.failed]
    parts += [f"FAILED, {line.part}: {line.failed}" for line in failed]
    parts.append(f"{record.seconds:.0f} seconds; {len(failed)} failed")
    return "\n".join(parts) + "\n"


def _cells(part: str, row: Row) -> tuple[str, ...]:
    share = UNKNOWN if row.share is None else f"{row.share:.0f}"
    beside = UNKNOWN if row.beside is None else f"{row.beside:.2f}"
    figure = number(row.figure)
    return part, row.what, row.size, figure, row.unit, share, row.limit, beside, row.note


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths[:-1]))
    return lines
