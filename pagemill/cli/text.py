"""How numbers, times and models read in columns and lines."""

import time
from collections.abc import Sequence

from pagemill.types import ModelCard

MINUTE, HOUR, DAY = 60, 3600, 86400
_SHOWN_LABELS = 12


def size(num_bytes: float) -> str:
    """106954752 -> "107 MB": decimal units, as download pages and disks count."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    for unit in ("KB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 1000:
            return f"{num_bytes:.{0 if num_bytes >= 10 else 1}f} {unit}"
    return f"{num_bytes / 1000:.1f} TB"


def count(number: float) -> str:
    """134515008 -> "135M", as model names say it."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= scale:
            value = number / scale
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return str(int(number))


def age(then: float, now: float | None = None) -> str:
    """A time stamp -> "3 hours ago"."""
    seconds = max(0, int((time.time() if now is None else now) - then))
    for unit, length in (("day", DAY), ("hour", HOUR), ("minute", MINUTE)):
        number = seconds // length
        if number:
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def duration(seconds: float) -> str:
    """0.0123 -> "12.3ms", 75 -> "1m15s"."""
    if seconds < 1:
        return f"{seconds * 1000:.1f}ms"
    if seconds < MINUTE:
        return f"{seconds:.2f}s"
    return f"{int(seconds) // MINUTE}m{int(seconds) % MINUTE:02d}s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces: reads well and cuts well with awk."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join(lines)


def gives(card: ModelCard) -> str:
    """What comes out of the network."""
    if not card.pooling:
        return "text"
    if card.pooling != "rank":
        of = {"mean": "the mean of all tokens", "cls": "the first token", "last": "the last token"}
        return f"embeddings of {card.hidden_size} numbers, from {of[card.pooling]}"
    if len(card.labels) <= 1:
        return "a score of how well two texts go together"
    more = ", ..." if len(card.labels) > _SHOWN_LABELS else ""
    return f"{len(card.labels)} classes: {', '.join(card.labels[:_SHOWN_LABELS])}{more}"


def network(card: ModelCard) -> str:
    """Its architecture, and who computes it where that is not Pagemill."""
    through = f", through {card.through} (fallback)" if card.through else ""
    return f"{card.architecture}{through}"
