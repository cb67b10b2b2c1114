"""Plain text to ids: normalized, cut into windows, handed to the library.

Owns how long texts are cut, which keeps time linear and memory flat. It must not know special
tokens: they were found before.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import tokenizers

from pagemill.errors import InvalidRequest
from pagemill.text.finder import Finder
from pagemill.text.spelling import BLANK

# Texts are encoded in parts of about this many characters: the library needs some 200 bytes each.
WINDOW = 16_384
NO_WORDS: Mapping[str, int] = MappingProxyType({})

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
    side in no token, though each is in one. Blanks count as marked.
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
        marked = text[start - 1 : end].replace(" ", BLANK)
        for n in range(1, len(marked)):
            pair = marked[n - 1 : n + 1]
            if pair not in pairs and pair[0] in chars and pair[1] in chars:
                return start + n - 1
        return None


class Encoder:
    """One of the library's models with what stands before it. `head` cuts the beginning of a text
    into pieces, `rest` what is not its beginning (both may be the library's Sequence, or None).
    `words` are tokens that stay whole in a normalized text.
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
        words: Mapping[str, int] = NO_WORDS,
    ) -> None:
        self._head = _library_tokenizer(model, head)
        self._rest = self._head if rest is head else _library_tokenizer(model, rest)
        self._normalize = normalize
        self._border = border
        self._window = window
        self._words = Finder(words) if words else None

    def encode(self, text: str, begins: bool) -> list[int]:
        """Ids of a text without added tokens; `begins`: it is not the middle of one."""
        if self._normalize:
            text = self._normalize(text, begins)
        head = self._head if begins else self._rest
        if self._words is None:
            return self._cut(text, head)
        ids: list[int] = []
        for piece, token_id in self._words.split(text):
            ids += self._cut(piece, head) if token_id is None else [token_id]
            head = self._rest
        return ids

    def _cut(self, text: str, head: tokenizers.Tokenizer) -> list[int]:
        """Ids of a text, encoded window by window; `head` does the first."""
        window = self._window or WINDOW
        try:
            if len(text) <= window:
                return head.encode(text, add_special_tokens=False).ids
            ids: list[int] = []
            for part in self._windows(text, window):
                ids += head.encode(part, add_special_tokens=False).ids
                head = self._rest
            return ids
        except BaseException as error:
            if not is_panic(error):
                raise
            raise InvalidRequest(
                "the model's tokenizer gives this text up: it takes too long"
            ) from None

    def _windows(self, text: str, window: int) -> Iterator[str]:
        """Cut at the first border after a window's length; without one, at twice that length."""
        start = 0
        while len(text) - start > 2 * window:
            end = self._border(text, start + window, start + 2 * window) or start + 2 * window
            yield text[start:end]
            start = end
        yield text[start:]


def is_panic(error: BaseException) -> bool:
    """Whether the library gave up in a way that is no Exception, and has no public name."""
    return type(error).__name__ == "PanicException"


def _library_tokenizer(model: Any, pre_tokenizer: Any) -> tokenizers.Tokenizer:
    built = tokenizers.Tokenizer(model)
    if pre_tokenizer is not None:
        built.pre_tokenizer = pre_tokenizer
    return built
