"""Stop strings in a stream of text: what is safe to send, and what may still become a stop string.

Owns one automaton (Aho and Corasick, 1975, doi 10.1145/360825.360855). It must not know tokens or
bytes. The string whose last character comes first is met, and of several that end there the
longest: so the outcome does not depend on how the text was cut into pushes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pagemill.errors import InvalidRequest


@dataclass(slots=True)
class _Node:
    """What was read last is the beginning of a stop string, `depth` characters of it."""

    depth: int
    next: dict[str, "_Node"] = field(default_factory=dict)
    fallback: "_Node | None" = None  # for the longest shorter beginning that was also read last
    stop: str | None = None  # the longest stop string that ends here


class StopStrings:
    """The stop strings of one request, and how far the text read so far has come into one of them.

    Time is linear in the text, whatever the strings. InvalidRequest for an empty string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise InvalidRequest("a stop string is empty", param="stop")
        self._root = self._node = _build(stops)
        firsts = "".join(re.escape(char) for char in self._root.next)
        self._first = re.compile(f"[{firsts}]") if firsts else None
        self._held = ""
        self.met: str | None = None

    def push(self, text: str) -> str:
        """Text that can no longer be part of a stop string. Once one is met: what comes before it,
        and nothing more from then on.
        """
        if self.met is not None:
            return ""
        start = 0
        if not self._held:
            # Most text holds no first character of a stop string: it is not walked through.
            found = self._first.search(text) if self._first else None
            if not found:
                return text
            start = found.start()
        text = self._held + text
        start = start or len(self._held)
        return self._walk(text, start)

    def finish(self) -> str:
        """The text held back; the stream has ended and no stop string can be completed."""
        held, self._held, self._node = self._held, "", self._root
        return held

    def _walk(self, text: str, start: int) -> str:
        node, root = self._node, self._root
        for position in range(start, len(text)):
            char = text[position]
            while char not in node.next and node.fallback is not None:
                node = node.fallback
            node = node.next.get(char, root)
            if node.stop is not None:
                self.met = node.stop
                self._held = ""
                return text[: position + 1 - len(node.stop)]
        self._node = node
        safe = len(text) - node.depth
        self._held = text[safe:]
        return text[:safe]


def _build(stops: Sequence[str]) -> _Node:
    root = _Node(0)
    for stop in stops:
        node = root
        for char in stop:
            node = node.next.setdefault(char, _Node(node.depth + 1))
        node.stop = stop
    layer = [root]
    while layer:
        for parent in layer:
            for char, node in parent.next.items():
                node.fallback = _fallback(parent, char, root)
                if node.stop is None:
                    node.stop = node.fallback.stop
        layer = [node for parent in layer for node in parent.next.values()]
    return root


def _fallback(parent: _Node, char: str, root: _Node) -> _Node:
    node = parent.fallback
    while node is not None:
        if char in node.next:
            return node.next[char]
        node = node.fallback
    return root
