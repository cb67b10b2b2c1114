"""Plain text to ids: normalized, cut into windows, handed to the library.

Owns how long texts are cut, which keeps time linear and memory flat. It must not know special
tokens: they were found before.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import tokenizers

# Texts are encoded in parts of about this many characters: the library needs some 200 bytes each.
WINDOW = 16_384

# Where ids do not change if the text is cut: the first such place from `start` on, before `end`.
Border = Callable[[str, int, int], int | None]
# The text as the vocabulary writes it. The flag: whether it is the beginning of a text.
Normalize = Callable[[str, bool], str]


def at_pieces(expression: str) -> Border:
    """For pre-tokenizers: a border is where `expression` matches."""
    search = re.compile(expression).search

    def border(text: str, start: int, end: int) -> int | None:
        match = search(text, start, end)
        return match.start() if match else None

    return border


class NoTokenAcross:
    """For vocabularies without pre-tokenizer: a border is between two characters that stand side by
    side in no token, though each is in one.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens

    @cached_property
    def _pairs(self) -> frozenset[str]:
        tokens = self._tokens
        return frozenset(token[n : n + 2] for token in tokens for n in range(len(token) - 1))

    @cached_property
    def _chars(self) -> frozenset[str]:
        return frozenset().union(*self._tokens)

    def __call__(self, text: str, start: int, end: int) -> int | None:
        pairs, chars = self._pairs, self._chars
        for n in range(start, end):
            if text[n - 1] in chars and text[n] in chars and text[n - 1 : n + 1] not in pairs:
                return n
        return None


class Encoder:
    """One of the library's models with what stands before it. `head` cuts the beginning of a text
    into pieces, `rest` what is not its beginning (both may be the library's Sequence, or None).
    """

    def __init__(
        self,
        model: Any,
        *,
        head: Any = None,
        rest: Any = None,
        normalize: Normalize | None = None,
        border: Border,
        window: int | None = None,
    ) -> None:
        self._head = _library_tokenizer(model, head)
        self._rest = self._head if rest is head else _library_tokenizer(model, rest)
        self._normalize = normalize
        self._border = border
        self._window = window

    def encode(self, text: str, first: bool) -> list[int]:
        """Ids of a text without special tokens. `first`: nothing stands before it."""
        if self._normalize:
            text = self._normalize(text, first)
        encode = (self._head if first else self._rest).encode
        window = self._window or WINDOW
        if len(text) <= window:
            return encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        for part in self._windows(text, window):
            ids += encode(part, add_special_tokens=False).ids
            encode = self._rest.encode
        return ids

    def _windows(self, text: str, window: int) -> Iterator[str]:
        """Cut at the first border after a window's length; without one, at twice that length."""
        start = 0
        while len(text) - start > 2 * window:
            end = self._border(text, start + window, start + 2 * window) or start + 2 * window
            yield text[start:end]
            start = end
        yield text[start:]


def _library_tokenizer(model: Any, pre_tokenizer: Any) -> tokenizers.Tokenizer:
    built = tokenizers.Tokenizer(model)
    if pre_tokenizer is not None:
        built.pre_tokenizer = pre_tokenizer
    return built
