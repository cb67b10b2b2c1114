"""Tables of characters that are replaced, made by hand."""

import struct
import time
from collections.abc import Mapping

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from pagemill.text.charsmap import CharsMap


def table_of(rules: Mapping[str, str]) -> bytes:
    """The table for some rules, with a base of its own for every node: simple, and large."""
    replacements = b""
    units = [0] * 256
    tree: dict[int, dict[bytes, str]] = {0: {old.encode(): new for old, new in rules.items()}}
    while tree:
        node, members = tree.popitem()
        base = len(units)
        units += [0] * 256
        assert (base ^ node) < 1 << 21
        units[node] |= (base ^ node) << 10
        if b"" in members:
            units[node] |= 1 << 8
            units[base] = 1 << 31 | len(replacements)
            replacements += members[b""].encode() + b"\0"
        for first in {data[0] for data in members if data}:
            child = base ^ first
            units[child] |= first
            tree[child] = {
                data[1:]: new for data, new in members.items() if data[:1] == bytes([first])
            }
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie)) + trie + replacements


RULES = {
    **{"é": "e", "e\u0301": "e", "ﬁ": "fi", "\t": " ", "\u200b": "", "a\u0308": "ä"},
    **{"a\u0308\u0304": "aa", "ab": "X", "abcd": "Y", "😀": ":)"},
}


def slowly(text: str, rules: Mapping[str, str]) -> str:
    """The definition: at each place the longest that is known."""
    out, place = "", 0
    while place < len(text):
        known = [old for old in rules if text.startswith(old, place)]
        best = max(known, key=len, default=text[place])
        out += rules.get(best, best)
        place += len(best)
    return out


@given(st.text(alphabet="aebcd\u0301\u0308\u0304éﬁ\t\u200b😀x", max_size=40))
def test_the_longest_sequence_is_replaced(text: str) -> None:
    assert TABLE.replace(text) == slowly(text, RULES)


TABLE = CharsMap(table_of(RULES))


def test_nothing_to_replace() -> None:
    assert CharsMap(table_of({"x": "y"})).replace("abc é") == "abc é"


def units(*values: int, rest: bytes = b"a\0") -> bytes:
    """A table of these nodes, and as many empty ones as it takes."""
    nodes = [*values, *[0] * (-len(values) % 256)]
    return struct.pack(f"<{len(nodes) + 1}I", 4 * len(nodes), *nodes) + rest


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "has 0 bytes"),
        (b"\x08\0\0\0abcd", "its trie of 8 bytes is not among its 8 bytes"),
        (b"\x03\0\0\0abcd", "trie of 3 bytes"),
        (b"\0\0\0\0abcd", "trie of 0 bytes"),
        (struct.pack("<I", 0xFFFFFFFC) + b"abcd", "trie of 4294967292 bytes"),
        (units(1 << 8 | 0xFFFFF << 10), "is outside of its 256 nodes"),
        (units(1 << 8 | 1 << 10, 999, rest=b"abc"), "replacement at 999 is outside of its 3 bytes"),
        (units(1 << 8 | 1 << 10, 1 << 31, rest=b"abc"), "replacement at 0 is outside"),
        (units(1 << 8 | 1 << 10, 1 << 31, rest=b"\xff\0"), "replacement at 0 is not UTF-8"),
        (units(1 << 8 | 1 << 10, 1 << 31, rest=b"a" * 99 + b"\0"), "has 99 characters"),
    ],
)
def test_broken_tables(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        CharsMap(data)


@given(
    st.dictionaries(st.integers(0, 255), st.integers(0, 1 << 20), max_size=20),
    st.text(max_size=20),
)
def test_any_bytes(values: dict[int, int], text: str) -> None:
    data = units(*(values.get(place, 0) for place in range(256)), rest=b"abc\0" * 99)
    try:
        table = CharsMap(data)
    except ValueError:
        return
    table.replace(text)
    tokenizers.normalizers.Precompiled(data).normalize_str(text)  # and the library does not panic


def test_a_trie_that_goes_round() -> None:
    """Each letter a leads to itself, so that a text of any length would be one sequence."""
    a, base = ord("a"), 256
    nodes = [0] * 512
    nodes[0] = base << 10
    nodes[base ^ a] = a | (base ^ a ^ base) << 10
    table = CharsMap(units(*nodes))
    text = "a" * 10_000
    start = time.thread_time()
    assert table.replace(text) == text
    assert time.thread_time() - start < 1
