"""Streamed text at the width of a terminal, whatever pieces it comes in."""

from pagemill.cli.wrap import Wrapper, printable


def wrapped(text: str, width: int, piece_len: int) -> str:
    wrapper = Wrapper(width)
    pieces = [text[i : i + piece_len] for i in range(0, len(text), piece_len)]
    return "".join(wrapper.push(piece) for piece in pieces) + wrapper.finish()


def test_breaks_between_words_whatever_the_pieces() -> None:
    text = "Paris is the capital of France.\n\nIt lies on the Seine."
    for piece_len in (1, 2, 3, 7, 100):
        assert wrapped(text, 12, piece_len) == (
            "Paris is the\ncapital of\nFrance.\n\nIt lies on\nthe Seine."
        )


def test_keeps_indentation_and_short_lines() -> None:
    assert wrapped("a\n  b c\n", 10, 3) == "a\n  b c\n"


def test_breaks_a_word_longer_than_the_line() -> None:
    assert wrapped("abcdefghij", 4, 1) == "abcd\nefgh\nij"


def test_counts_wide_characters_twice_and_breaks_between_them() -> None:
    assert wrapped("日本語です", 4, 1) == "日本\n語で\nす"


def test_leaves_fenced_code_alone() -> None:
    code = "```\nx = 1 + 2 + 3 + 4\n```\n"
    assert wrapped(code, 8, 2) == code
    assert wrapped(code + "one two three", 8, 5) == code + "one two\nthree"


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\r\x9bc\td\n") == "a]0;titlebc\td\n"
