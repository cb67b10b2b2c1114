"""The normalization table of a SentencePiece model: characters, and what replaces them.

Owns its format: a double-array trie (as the library Darts lays it out) of all sequences of
characters that are replaced, and a list of replacements. Single characters and pairs are read into
tables once; the trie is walked for what is longer, of which there are too many to list.
"""

import re
from array import array
from collections.abc import Iterator
from typing import NamedTuple

_MAX_SEQUENCE = 16  # characters that are replaced together
_MAX_REPLACEMENT = 64  # characters
_MAX_VISITS = 1 << 20  # nodes that are looked at to find all single characters and pairs

_LEAF, _LABEL = 1 << 8, 1 << 31 | 0xFF


class _Found(NamedTuple):
    """A sequence of the trie: what replaces it, if anything, and the base of what may follow."""

    replacement: str | None
    base: int


class CharsMap:
    """Replaces the longest sequence that the table knows at each place. ValueError says what is
    wrong with a table.
    """

    def __init__(self, data: bytes) -> None:
        """`data` as in the model's file."""
        self._units, self._replacements = _parts(data)
        self._read: dict[int, str] = {}
        for place, unit in enumerate(self._units):
            if unit >> 31:
                continue
            base = place ^ _offset(unit)
            if base | 0xFF >= len(self._units):  # so that every label has a place
                raise ValueError(f"node {base} is outside of its {len(self._units)} nodes")
            self._found(unit, base)  # so that none is wrong later
        self._visits = 0
        # A node of label c is at base ^ c: this lists the labels of every base.
        self._labels: dict[int, list[int]] = {}
        for place, unit in enumerate(self._units):
            if label := unit & _LABEL:
                self._labels.setdefault(place ^ label, []).append(label)
        single = dict(self._characters(_offset(self._units[0])))
        self._pairs = {
            first + second: found
            for first, begun in single.items()
            for second, found in self._characters(begun.base)
        }
        self._single = {
            ord(char): found.replacement
            for char, found in single.items()
            if found.replacement is not None
        }
        self._labels.clear()
        # Only a few characters stand second in a sequence: text without them needs no search.
        seconds = "".join(map(re.escape, sorted({pair[1] for pair in self._pairs})))
        self._second = re.compile(f"[{seconds}]") if seconds else None

    def replace(self, text: str) -> str:
        """The text with every known sequence replaced."""
        parts = []
        start = 0
        for match in self._second.finditer(text) if self._second else ():
            begin = match.start() - 1
            if begin >= start and text[begin : begin + 2] in self._pairs:
                size, replacement = self._longest(text, begin)
                if size:
                    parts += [text[start:begin].translate(self._single), replacement]
                    start = begin + size
        return "".join([*parts, text[start:].translate(self._single)])

    def _longest(self, text: str, begin: int) -> tuple[int, str]:
        """The size of the longest known sequence of two characters or more, and what replaces it;
        0 if there is none.
        """
        found: _Found | None = self._pairs[text[begin : begin + 2]]
        best = (0, "")
        end = begin + 2
        while found is not None:
            if found.replacement is not None:
                best = (end - begin, found.replacement)
            if end == len(text) or end - begin == _MAX_SEQUENCE:
                break
            found = self._follow(found.base, text[end])
            end += 1
        return best

    def _follow(self, base: int, char: str) -> _Found | None:
        """One more character after a sequence."""
        unit = 0
        for byte in char.encode():
            place = base ^ byte
            if self._units[place] & _LABEL != byte:
                return None
            unit = self._units[place]
            base = place ^ _offset(unit)
        return self._found(unit, base)

    def _characters(self, base: int) -> Iterator[tuple[str, _Found]]:
        """Every character that may stand next after a sequence."""
        nodes = [(base, b"")]
        while nodes:
            base, begun = nodes.pop()
            for label in self._labels.get(base, ()):
                self._visits += 1
                if self._visits > _MAX_VISITS:
                    raise ValueError(
                        f"its trie has more than {_MAX_VISITS} ways for two characters"
                    )
                unit = self._units[base ^ label]
                data = begun + bytes([label])
                next_base = base ^ label ^ _offset(unit)
                if len(data) < _length(data[0]):
                    nodes.append((next_base, data))
                    continue
                try:
                    yield data.decode(), self._found(unit, next_base)
                except UnicodeDecodeError:
                    raise ValueError(f"sequence {data!r} is not UTF-8") from None

    def _found(self, unit: int, base: int) -> _Found:
        if not unit & _LEAF:
            return _Found(None, base)
        place = self._units[base] & 0x7FFFFFFF
        if place not in self._read:
            self._read[place] = _replacement(self._replacements, place)
        return _Found(self._read[place], base)


def _parts(data: bytes) -> tuple["array[int]", bytes]:
    if len(data) < 4:
        raise ValueError(f"has {len(data)} bytes")
    size = int.from_bytes(data[:4], "little")
    if size % 4 or not 4 <= size <= len(data) - 4:
        raise ValueError(f"its trie of {size} bytes is not among its {len(data)} bytes")
    units = array("I", data[4 : 4 + size])
    assert units.itemsize == 4
    if int.from_bytes(data[4:8], "little") != units[0]:
        units.byteswap()
    return units, data[4 + size :]


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)


def _length(first: int) -> int:
    """Of a character, by its first byte in UTF-8."""
    return 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)


def _replacement(data: bytes, place: int) -> str:
    end = data.find(0, place) if place < len(data) else -1
    if end < 0:
        raise ValueError(f"replacement at {place} is outside of its {len(data)} bytes")
    try:
        text = data[place:end].decode()
    except UnicodeDecodeError:
        raise ValueError(f"replacement at {place} is not UTF-8") from None
    if len(text) > _MAX_REPLACEMENT:
        raise ValueError(
            f"replacement at {place} has {len(text)} characters, the limit is {_MAX_REPLACEMENT}"
        )
    return text
