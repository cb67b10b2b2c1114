"""Text to token ids and back.

Owns byte-level BPE built from a model file's metadata. It must not know chat templates, engines
or requests. Two things are its own, not the library's. Special tokens are found by an expression
of ours and only when the caller asks, so what a user types is text. And long texts are cut first,
which keeps time linear and memory flat.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from pagemill.errors import InvalidRequest
from pagemill.text.vocabulary import Vocabulary, byte_alphabet, read_vocabulary

# Texts are encoded in parts of about this many characters: the library needs some 200 bytes each.
WINDOW = 16_384

# Where every row of `pretokenizers` begins a new piece, whatever stands around: a blank after a
# visible character; a line's end or punctuation after a letter.
_BORDER = re.compile(r"(?<=\S)(?=[ \t])|(?<=[^\W\d_])(?=[\n!-/:-@\[\]-^{-~、。，！？])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_NESTING = 32  # of the special tokens' expression


class Tokenizer:
    """Byte-level BPE. `special_ids` are control and user-defined tokens; `control_ids` those of
    them that never show in an answer. `encode` adds no token of its own: `add_bos` says whether a
    prompt that no template made begins with `bos_id`. Safe to share between threads.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocab_size = len(vocabulary.tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_ids = vocabulary.eos_ids
        self.add_bos = vocabulary.add_bos
        self.special_ids = vocabulary.special
        self.control_ids = vocabulary.control
        self.special_tokens: Mapping[str, int] = {
            vocabulary.tokens[i]: i for i in sorted(vocabulary.special)
        }
        self._tokens = vocabulary.tokens
        self._bytes: list[bytes | None] = [None] * len(vocabulary.tokens)
        self._alphabet = {ord(char): chr(byte) for char, byte in byte_alphabet().items()}
        self._special = _any_of(self.special_tokens)
        self._bpe = _library_tokenizer(vocabulary, self.special_tokens)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build from tokenizer.ggml.*. BadModelFile for nonsense; Unsupported lists what exists."""
        return cls(read_vocabulary(metadata))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text. Without `special` no id of `special_ids` comes out, whatever is in it.

        Lone surrogates become U+FFFD. In runs of more than 32,768 characters without a blank,
        pieces end at that length, so ids there can differ from an encoder that has no bound.
        Bytes that the vocabulary has no token for are dropped, as the reference encoders do.
        """
        if not text.isascii():
            text = _SURROGATE.sub("\ufffd", text)
        if not special:
            return self._encode_plain(text)
        ids: list[int] = []
        for piece, token_id in self.split_special(text):
            ids += self._encode_plain(piece) if token_id is None else [token_id]
        return ids

    def split_special(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The text in order, cut into special tokens (with their id) and the rest (None)."""
        start = 0
        for match in self._special.finditer(text) if self._special else ():
            if match.start() > start:
                yield text[start : match.start()], None
            yield match[0], self.special_tokens[match[0]]
            start = match.end()
        if start < len(text):
            yield text[start:], None

    @cached_property
    def special_edges(self) -> tuple[frozenset[str], frozenset[str]]:
        """Every beginning and every end of a special token that is not the whole of it."""
        cuts = [(text, n) for text in self.special_tokens for n in range(1, len(text))]
        return frozenset(text[:n] for text, n in cuts), frozenset(text[n:] for text, n in cuts)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids, U+FFFD where they are not UTF-8. `skip_special` leaves `control_ids` out."""
        hidden = self.control_ids if skip_special else frozenset()
        parts = [self.token_bytes(token_id) for token_id in ids if token_id not in hidden]
        return b"".join(parts).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token; of a special one, its text. InvalidRequest: no such id."""
        if not 0 <= token_id < self.vocab_size:
            limit = self.vocab_size - 1
            raise InvalidRequest(f"token id {token_id} is outside the vocabulary, 0 to {limit}")
        known = self._bytes[token_id]
        if known is None:
            known = self._bytes[token_id] = self._read_bytes(token_id)
        return known

    def is_special(self, token_id: int) -> bool:
        """Whether the token is one that plain text never produces."""
        return token_id in self.special_ids

    def _read_bytes(self, token_id: int) -> bytes:
        token = self._tokens[token_id]
        if token_id not in self.special_ids and all(ord(char) in self._alphabet for char in token):
            return token.translate(self._alphabet).encode("latin-1")
        return token.encode("utf-8", "replace")

    def _encode_plain(self, text: str) -> list[int]:
        encode = self._bpe.encode
        if len(text) <= WINDOW:
            return encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        for part in _windows(text):
            ids += encode(part, add_special_tokens=False).ids
        return ids


def _windows(text: str) -> Iterator[str]:
    """Cut at the first border after a window's length; without one, at twice that length."""
    start = 0
    while len(text) - start > 2 * WINDOW:
        border = _BORDER.search(text, start + WINDOW, start + 2 * WINDOW)
        end = border.start() if border else start + 2 * WINDOW
        yield text[start:end]
        start = end
    yield text[start:]


def _library_tokenizer(vocabulary: Vocabulary, special: Mapping[str, int]) -> tokenizers.Tokenizer:
    # Special tokens are left out: plain text that is spelled like one finds no such token.
    ids = dict(vocabulary.ids)
    for token in special:
        del ids[token]
    merges: Any = vocabulary.merges
    bpe = models.BPE(vocab=ids, merges=merges, ignore_merges=vocabulary.cutting.ignore_merges)
    built = tokenizers.Tokenizer(bpe)
    splits: list[Any] = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        for pattern in vocabulary.cutting.patterns
    ]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.pre_tokenizer = pre_tokenizers.Sequence([*splits, level])
    return built


def _any_of(texts: Mapping[str, int]) -> re.Pattern[str] | None:
    """An expression for the longest of the texts at a place. A tree of shared beginnings, so that
    the time at each character does not grow with the number of texts.
    """
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
