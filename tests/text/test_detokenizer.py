"""Ids to text as they come, cut anywhere; stop strings."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemill.errors import InvalidRequest
from pagemill.text.detokenizer import Detokenizer
from pagemill.text.stops import StopStrings
from tests.text.vocabularies import metadata, tokenizer

TINY = tokenizer()
IDS = st.lists(st.integers(0, len(metadata()["tokenizer.ggml.tokens"]) - 1), max_size=30)
CUTS = st.lists(st.integers(0, 40), max_size=12)


def groups(items: Sequence[int], cuts: Sequence[int]) -> list[Sequence[int]]:
    borders = sorted({0, len(items), *(cut for cut in cuts if cut < len(items))})
    return [items[start:end] for start, end in pairwise(borders)]


def stream(parts: Sequence[Sequence[int]], **options: object) -> tuple[str, str | None]:
    detokenizer = Detokenizer(TINY, **options)  # type: ignore[arg-type]
    text = "".join([detokenizer.push(part) for part in parts]) + detokenizer.finish()
    return text, detokenizer.stopped


def one_by_one(text: str, **options: object) -> tuple[str, str | None]:
    """Byte by byte: the hardest way to cut."""
    ids = [
        i for byte in text.encode() for i in range(6, 262) if TINY.token_bytes(i) == bytes([byte])
    ]
    return stream([[i] for i in ids], **options)


def expected(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The definition, in slow words: the stop string that ends first, the longest of those."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            longest = max(met, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(IDS, CUTS, st.booleans())
def test_cut_anywhere_the_stream_is_the_whole(ids: list[int], cuts: list[int], skip: bool) -> None:
    whole = TINY.decode(ids, skip_special=skip)
    assert stream([ids], skip_special=skip) == (whole, None)
    assert stream(groups(ids, cuts), skip_special=skip) == (whole, None)
    assert stream([[i] for i in ids], skip_special=skip) == (whole, None)


@given(
    st.text(alphabet="abé😀", max_size=30),
    st.lists(st.text(alphabet="abé😀", min_size=1, max_size=4), min_size=1, max_size=4),
    CUTS,
)
def test_stop_strings_wherever_the_cuts_are(text: str, stops: list[str], cuts: list[int]) -> None:
    ids = TINY.encode(text)
    assert stream(groups(ids, cuts), stop=stops) == expected(text, stops)
    assert one_by_one(text, stop=stops) == expected(text, stops)
    kept, met = expected(text, stops)
    assert one_by_one(text, stop=stops, include_stop=True) == (kept + (met or ""), met)


@pytest.mark.parametrize(
    ("text", "stops", "kept", "met"),
    [
        ("hello END more", ["END"], "hello ", "END"),
        ("hello EN", ["END"], "hello EN", None),
        ("aab", ["aaab", "ab"], "a", "ab"),
        ("xabcy", ["abcd", "bc"], "xa", "bc"),
        ("abc", ["bc", "abc"], "", "abc"),
        ("ababac", ["abac"], "ab", "abac"),
        ("price: 5€!", ["€"], "price: 5", "€"),
        ("a\n\nb", ["\n\n", "\n"], "a", "\n"),
    ],
)
def test_stop_strings(text: str, stops: list[str], kept: str, met: str | None) -> None:
    assert one_by_one(text, stop=stops) == (kept, met)


def test_what_may_become_a_stop_string_waits_and_nothing_else() -> None:
    detokenizer = Detokenizer(TINY, stop=["END!"])
    sent = [detokenizer.push(TINY.encode(char)) for char in "xEEN EN"]
    assert sent == ["x", "", "E", "", "EN ", "", ""]
    assert detokenizer.finish() == "EN"


def test_nothing_comes_after_a_stop_string() -> None:
    detokenizer = Detokenizer(TINY, stop=["b"])
    assert detokenizer.push(TINY.encode("abc")) == "a"
    assert detokenizer.push(TINY.encode("d")) == ""
    assert detokenizer.finish() == ""
    assert detokenizer.stopped == "b"


def test_a_character_is_sent_whole() -> None:
    detokenizer = Detokenizer(TINY)
    sent = [detokenizer.push([i]) for i in TINY.encode("😀")]
    assert sent == ["", "", "", "😀"]


def test_a_broken_character_is_marked_at_the_end() -> None:
    detokenizer = Detokenizer(TINY, stop=["\ufffd!"])
    assert detokenizer.push(TINY.encode("a😀")[:-1]) == "a"
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="a stop string is empty") as caught:
        StopStrings(["a", ""])
    assert caught.value.param == "stop"


def test_a_stop_string_of_many_characters_that_almost_comes() -> None:
    stops = StopStrings(["a" * 2000 + "b"])
    text = "".join(stops.push("aaaa") for _ in range(20_000)) + stops.finish()
    assert text == "a" * 80_000
