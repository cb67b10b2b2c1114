"""Finds the tokens of a set in a text. Owns the expression that does it, nothing else."""

import re
from collections.abc import Iterator, Mapping

_MAX_NESTING = 32  # of the expression


class Finder:
    """Cuts texts at given strings, of several that begin at one place at the longest. The time
    at each character does not grow with their number.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self._expression = _any_of(ids)

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The text in order: what was found, with its id, and what lies between (None)."""
        start = 0
        for match in self._expression.finditer(text) if self._expression else ():
            if match.start() > start:
                yield text[start : match.start()], None
            yield match[0], self._ids[match[0]]
            start = match.end()
        if start < len(text):
            yield text[start:], None


def _any_of(texts: Mapping[str, int]) -> re.Pattern[str] | None:
    """An expression for the longest of the texts at a place: a tree of shared beginnings."""
    return re.compile(_branches(sorted(texts), 0)) if texts else None


def _branches(texts: list[str], nesting: int) -> str:
    """`texts` is sorted; an empty one comes first and matches last."""
    if nesting == _MAX_NESTING:
        return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
    groups: dict[str, list[str]] = {}
    for text in texts:
        if text:
            groups.setdefault(text[0], []).append(text)
    branches = []
    for members in groups.values():
        # The shared beginning of a sorted list is that of its first and last member.
        first, last = members[0], members[-1]
        shared = next(
            (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
            min(len(first), len(last)),
        )
        rest = [member[shared:] for member in members]
        tail = f"(?:{_branches(rest, nesting + 1)})" if len(rest) > 1 else ""
        branches.append(re.escape(first[:shared]) + tail)
    return "|".join([*branches, ""] if not texts[0] else branches)
