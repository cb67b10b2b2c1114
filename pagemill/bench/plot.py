"""Pictures as SVG text: lines and bars, drawn for a page whose colours they take from its CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from pagemill.bench.document import Bars, Plot

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
NUM_COLOURS = 6
BAR_HEIGHT, LABEL_WIDTH, VALUE_WIDTH = 20, 190, 64
_TICKS = 5
_DECADE = (1.0, 2.0, 5.0)


def lines(plot: Plot) -> str:
    """A line plot with a legend under it."""
    points = [point for line in plot.lines for point in line.points]
    if not points:
        return ""
    across, x_ticks = _axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log=plot.log_x)
    up, y_ticks = _axis([y for _, y in points], HEIGHT - BOTTOM, TOP, log=plot.log_y)
    if plot.log_x:
        x_ticks = sorted({x for x, _ in points})  # levels: exactly those that were measured
    parts = [_grid(across, up, x_ticks, y_ticks)]
    for index, line in enumerate(plot.lines):
        colour = f"c{index % NUM_COLOURS}"
        places = [(across(x), up(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        for (x, y), (left, top) in zip(line.points, places, strict=True):
            title = f"{escape(line.name)}: {_short(y)} at {_short(x)}"
            parts.append(
                f'<circle class="dot {colour}" cx="{left:.1f}" cy="{top:.1f}" r="3.5">'
                f"<title>{title}</title></circle>"
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 6, plot.x, "middle"))
    parts.append(
        f'<text class="name" transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) '
        f'rotate(-90)" text-anchor="middle">{escape(plot.y)}</text>'
    )
    names = [line.name for line in plot.lines]
    return _svg(WIDTH, HEIGHT, plot.title, "".join(parts)) + legend(names)


def bars(picture: Bars) -> str:
    """Horizontal bars, their parts one after another."""
    if not picture.bars:
        return ""
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    most = picture.most or max(sum(values) for _, values in picture.bars) or 1.0
    parts = []
    for index, (label, values) in enumerate(picture.bars):
        top, left = index * (BAR_HEIGHT + 6), float(LABEL_WIDTH)
        parts.append(_text(LABEL_WIDTH - 8, top + BAR_HEIGHT - 6, label, "end"))
        for part, value in enumerate(values):
            wide = max(0.0, min(value, most) / most * room)
            title = escape(f"{picture.parts[part]}: {_short(value)} {picture.unit}")
            parts.append(
                f'<rect class="bar c{part % NUM_COLOURS}" x="{left:.1f}" y="{top}" '
                f'width="{wide:.1f}" height="{BAR_HEIGHT}"><title>{title}</title></rect>'
            )
            left += wide
        total = f"{_short(sum(values))} {picture.unit}"
        parts.append(_text(left + 6, top + BAR_HEIGHT - 6, total, "start"))
    high = len(picture.bars) * (BAR_HEIGHT + 6)
    names = picture.parts if len(picture.parts) > 1 else ()
    return _svg(WIDTH, high, picture.title, "".join(parts)) + legend(names)


def legend(names: Sequence[str]) -> str:
    """Which colour is which; nothing for a single one without a name."""
    items = [
        f'<span><i class="key k{index % NUM_COLOURS}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
    ]
    return f'<p class="legend">{"".join(items)}</p>' if any(names) else ""


def _svg(width: float, height: float, title: str, inside: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{inside}</svg>"
    )


def _grid(
    across: Callable[[float], float],
    up: Callable[[float], float],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
) -> str:
    parts = []
    for tick in y_ticks:
        y = up(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y + 4, _short(tick), "end"))
    for tick in x_ticks:
        x = across(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(_text(x, HEIGHT - BOTTOM + 16, _short(tick), "middle"))
    return "".join(parts)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _axis(
    values: Sequence[float], start: float, end: float, *, log: bool
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value lies between two edges, and round values to mark. Linear ones begin at 0."""
    if log:
        low, high = math.log(min(values)), math.log(max(values))
        wide = (high - low) or 1.0
        low = low if high > low else low - 0.5
        ticks = [
            tick
            for decade in range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
            for tick in (part * 10.0**decade for part in _DECADE)
            if low <= math.log(tick) <= high
        ]
        return (lambda value: start + (math.log(value) - low) / wide * (end - start)), ticks
    top = max(*values, 0.0) or 1.0
    step = next(
        part * 10.0**power
        for power in range(math.floor(math.log10(top)) - 1, math.ceil(math.log10(top)) + 1)
        for part in _DECADE
        if top / (part * 10.0**power) <= _TICKS
    )
    steps = math.ceil(top / step - 1e-9)
    most = steps * step
    ticks = [step * i for i in range(steps + 1)]
    return (lambda value: start + value / most * (end - start)), ticks


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
