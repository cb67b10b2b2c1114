"""Which regular expressions of model files are used."""

import time
from contextlib import suppress

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from pagemill.text import expressions, pretokenizers
from pagemill.text.expressions import TooCostly

ROWS = {row: name for name, row in pretokenizers.TABLE.items()}
PATTERNS = sorted({p for row, name in ROWS.items() if name != "exaone-moe" for p in row.patterns})


@pytest.mark.parametrize("pattern", PATTERNS)
def test_those_of_published_models_pass(pattern: str) -> None:
    expressions.check(pattern)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a+)+$", "several ways"),
        ("(?:a|aa)+$", "several ways"),
        ("(a|a)*b", "several ways"),
        ("(a*)*", "several ways"),
        ("(a?){20}b", "several ways"),
        ("(a+b?){2,3}", "repeats a part that repeats"),
        ("a*a*b", "try every shorter length"),
        (".*a.*b", "try every shorter length"),
        ("a*(?=b*c)", "try every shorter length"),
        ("a?" * 20 + "b", "more than 64 ways"),
        ("(?:a|b|c)(?:a|b|c)(?:a|b|c)(?:a|b|c)b", "more than 64 ways"),
        ("a{4097}", "repeats 4097 characters"),
        ("(a{64}){65}", "repeats 4160 characters"),
        (r"(a)\1", "refers to another part"),
        (r"(?<n>a)\k<n>", "refers to another part"),
        (r"(?<n>a)\g<n>", "refers to another part"),
        ("(?~a)", "unknown kind"),
        ("(?(1)a|b)", "unknown kind"),
        ("(?{a})", "unknown kind"),
        ("(*FAIL)", "repeats nothing"),
        ("(" * 50 + ")" * 50, "nested deeper than 32"),
        ("[" * 50 + "]" * 50, "nested deeper than 32"),
        ("(a", "without end"),
        ("a)", r"a \) too many"),
        ("[a", "without end"),
        ("*a", "repeats nothing"),
        ("a\\", "escapes what is unknown"),
        ("a" * 5000, "has 5000 characters"),
    ],
)
def test_what_could_take_long_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(TooCostly, match=why):
        expressions.check(pattern)


@pytest.mark.parametrize("pattern", [r"\s+", " {2,}", "[\n\r]", r"(?:ab)+", "a|b+", "x*+"])
def test_what_takes_a_text_once(pattern: str) -> None:
    expressions.check(pattern, linear=True)


@pytest.mark.parametrize("pattern", [r"\s+$", "a+b", r"(?=\d+)x", "(?:ab)*c"])
def test_what_takes_it_once_for_every_place(pattern: str) -> None:
    expressions.check(pattern)
    with pytest.raises(TooCostly):
        expressions.check(pattern, linear=True)


ATOMS = st.sampled_from(["a", "b", "[ab]", "(?:ab)", "(?=a)", "(?!b)", "."])
PARTS = st.tuples(ATOMS, st.sampled_from(["", "*", "+", "?", "{1,3}", "{2}", "*?", "++"]))


@given(st.lists(st.lists(PARTS, min_size=1, max_size=5), min_size=1, max_size=3), st.booleans())
def test_what_passes_is_fast(branches: list[list[tuple[str, str]]], nested: bool) -> None:
    pattern = "|".join("".join(map("".join, branch)) for branch in branches)
    pattern = f"(?:{pattern})*" if nested else pattern
    try:
        expressions.check(pattern)
    except TooCostly:
        return
    library = tokenizers.Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    with suppress(Exception):  # the library refuses some for reasons of its own
        library.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    start = time.thread_time()
    for text in ("a" * 500 + "c", "ab" * 250, "b" * 500):
        library.encode(text)
    assert time.thread_time() - start < 1
