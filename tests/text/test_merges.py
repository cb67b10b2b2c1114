"""Pairs of tokens that join to a third."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemill.text.merges import byte_pairs, pairs_by_rank


def slowly(tokens: list[str], ids: list[int]) -> list[tuple[str, str]]:
    """The definition."""
    places = dict(zip(tokens, ids, strict=True))
    pairs = []
    for token in tokens:
        ways = [(token[:n], token[n:]) for n in range(1, len(token))]
        known = [way for way in ways if way[0] in places and way[1] in places]
        pairs += sorted(known, key=lambda way: places[way[0]])
    return pairs


@given(st.lists(st.text("ab▁é😀", min_size=1, max_size=6), unique=True, max_size=30), st.randoms())
def test_every_way_in_which_a_token_is_two_others(tokens: list[str], order: object) -> None:
    ids = list(range(len(tokens)))
    order.shuffle(ids)  # type: ignore[attr-defined]
    assert pairs_by_rank(tokens, ids) == slowly(tokens, ids)


def test_pairs_that_make_added_tokens_are_left_out() -> None:
    ids = {"a": 0, "b": 1, "ab": 2}
    pairs = [("a", "b"), ("ab", "a"), ("aba", "b")]
    model = byte_pairs(ids, [*pairs], frozenset({"aba", "abab"}))
    assert [token.value for token in model.tokenize("abab")] == ["ab", "ab"]


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (("a", "c"), "item 1, 'a c'"),
        (("b", "a"), "item 1, 'b a'"),
        (("a",), "item 1, 'a', does not join"),
        (("a", "b", "b"), "item 1, 'a b b'"),
        (("ab", "a"), "item 1, 'ab a'"),
    ],
)
def test_the_first_wrong_pair_is_named(pair: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        byte_pairs({"a": 0, "b": 1, "ab": 2}, [("a", "b"), pair], frozenset())


def test_a_prefix_of_what_goes_on_with_a_word() -> None:
    ids = {"a": 0, "##b": 1, "ab": 2, "é": 3, "aé": 4}
    options = {"continuing_subword_prefix": "##"}
    model = byte_pairs(ids, [("a", "##b")], frozenset(), **options)
    assert [token.value for token in model.tokenize("ab")] == ["ab"]
    for pair in (("a", "é"), ("a", "b"), ("ab", "##b")):
        with pytest.raises(ValueError, match="item 0"):
            byte_pairs(ids, [pair], frozenset(), **options)
