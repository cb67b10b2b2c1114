"""A document as one HTML file that needs nothing else: no script, no font, no image, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pagemill.bench import plot
from pagemill.bench.document import Bars, Document, Plot, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --faint: #6b7280; --line: #d9dde3;
  --ground: #fff; --stripe: #f5f6f8;
  --c0: #1f6feb; --c1: #d1570d; --c2: #1a7f37; --c3: #9333c8; --c4: #b0870a; --c5: #c2255c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --faint: #98a2b0; --line: #333a44;
  --ground: #14171b; --stripe: #1b1f25;
  --c0: #6ea8ff; --c1: #ff9d5c; --c2: #5fd07f; --c3: #c792ea; --c4: #e6c34a; --c5: #ff7ba8; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; } figure { margin: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--faint); font-weight: 600; } tr:nth-child(even) td { background: var(--stripe); }
.text { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.note, .legend { color: var(--faint); } .legend span { margin-right: 1.2rem; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
svg { width: 100%; max-width: 44rem; height: auto; display: block; }
svg text { font-size: 11px; fill: var(--faint); }
.grid { stroke: var(--line); stroke-width: 1; fill: none; } .line { fill: none; stroke-width: 2; }
"""
_COLOURS = "".join(
    f".line.c{i} {{ stroke: var(--c{i}); }} .dot.c{i}, .bar.c{i} {{ fill: var(--c{i}); }} "
    f".k{i} {{ background: var(--c{i}); }}\n"
    for i in range(plot.NUM_COLOURS)
)


def page(document: Document) -> str:
    """The whole file."""
    title = escape(document.title)
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in document.facts)
    parts = "\n".join(_part(part) for part in document.parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n'
        f"<style>{_STYLE}{_COLOURS}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<dl>{facts}</dl>\n{_notes(document.notes)}{parts}\n</body>\n</html>\n"
    )


def _part(part: Table | Plot | Bars) -> str:
    heading = f"<h2>{escape(part.title)}</h2>\n"
    if isinstance(part, Table):
        return heading + _table(part) + _notes(part.notes)
    drawn = plot.lines(part) if isinstance(part, Plot) else plot.bars(part)
    return f"{heading}<figure>{drawn}</figure>"


def _table(table: Table) -> str:
    numeric = [all(_is_number(row[i]) for row in table.rows) for i in range(len(table.header))]

    def row(tag: str, cells: Sequence[str]) -> str:
        inside = "".join(
            f"<{tag}{'' if right else ' class=text'}>{escape(cell)}</{tag}>"
            for cell, right in zip(cells, numeric, strict=True)
        )
        return f"<tr>{inside}</tr>"

    body = "\n".join(row("td", cells) for cells in table.rows)
    return (
        f'<div class="wide"><table>\n<thead>{row("th", table.header)}</thead>\n'
        f"<tbody>{body}</tbody>\n</table></div>\n"
    )


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] == "-"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>\n' for note in notes)
