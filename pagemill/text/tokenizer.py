"""Text to token ids and back.

Owns what all kinds of vocabularies have in common. It must not know chat templates, engines or
requests, nor how any kind works. Special tokens are found by an expression of ours, not by the
library, and only when the caller asks: so what a user types is text.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pagemill.errors import InvalidRequest
from pagemill.text.finder import Finder
from pagemill.text.kinds import read_vocabulary
from pagemill.text.spelling import byte_level, plain
from pagemill.text.vocabulary import Vocabulary
from pagemill.text.vocabulary_files import read_folder

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Any kind of vocabulary. `special_ids` are the tokens that plain text never becomes;
    `control_ids` those of them that never show in an answer. `encode` adds no token of its own:
    `encode_prompt` and `encode_pair` do, as the model's own tokenizer does. `max_length` is how
    many tokens a prompt may have, where the files say so. Safe to share between threads.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens, kinds = vocabulary.tokens, vocabulary.kinds
        self.vocab_size = len(tokens)
        self.bos_id = vocabulary.bos_id
        self.eos_ids = vocabulary.eos_ids
        self.add_bos = self.bos_id is not None and self.bos_id in vocabulary.frame.before.ids
        self.special_ids = kinds.special
        self.control_ids = kinds.control
        self.special_tokens: Mapping[str, int] = {tokens[i]: i for i in sorted(kinds.special)}
        self.leading_blank = vocabulary.leading_blank
        self.max_length = vocabulary.max_length
        self._vocabulary = vocabulary
        self._bytes: list[bytes | None] = [None] * len(tokens)
        self._special = Finder(self.special_tokens)
        self._words = Finder({tokens[i]: i for i in kinds.words})

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build from tokenizer.ggml.*. BadModelFile for nonsense; Unsupported lists what exists."""
        return cls(read_vocabulary(metadata))

    @classmethod
    def from_folder(cls, path: Path) -> "Tokenizer":
        """Build from tokenizer.json, tokenizer.model or tekken.json and the files beside it.
        BadModelFile and Unsupported name the file.
        """
        return cls(read_folder(path))

    def encode(
        self, text: str, *, special: bool = False, between: Callable[[str], str] | None = None
    ) -> list[int]:
        """Ids of a text. Without `special` no id of `special_ids` comes out, whatever is in it.
        With it, `between` says what really stands between two special tokens.

        Lone surrogates become U+FFFD. In runs of more than 32,768 characters without a blank,
        pieces end at that length, so ids there can differ from an encoder that has no bound.
        Bytes that the vocabulary has no token for are dropped, as the reference encoders do.
        """
        if not text.isascii():
            text = _SURROGATE.sub("\ufffd", text)
        if not special:
            return self._encode_plain(text, None)
        pieces = list(self.split_special(text))
        left, right = self._vocabulary.takes_left, self._vocabulary.takes_right
        ids: list[int] = []
        for number, (piece, token_id) in enumerate(pieces):
            if token_id is not None:
                ids.append(token_id)
                continue
            before = ids[-1] if ids else None
            if before in right:
                piece = piece.lstrip()
            if number + 1 < len(pieces) and pieces[number + 1][1] in left:
                piece = piece.rstrip()
            ids += self._encode_plain(between(piece) if between else piece, before)
        return ids

    def encode_prompt(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text with what the model's own tokenizer puts around it."""
        return self.frame(self.encode(text, special=special))

    def encode_pair(self, first: str, second: str) -> list[int]:
        """Ids of two texts that the model reads together, as a question and an answer."""
        return self.frame_pair(self.encode(first), self.encode(second))

    def token_type_ids(self, ids: Sequence[int]) -> list[int]:
        """Which text each id of a prompt or of a pair counts for."""
        return self._vocabulary.frame.types_of(ids)

    def frame(self, ids: Sequence[int]) -> list[int]:
        """Ids of a text with what the model's own tokenizer puts around it."""
        return self._vocabulary.frame.around(ids)

    def frame_pair(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        """Ids of two texts with what the model's own tokenizer puts around and between them."""
        return self._vocabulary.frame.around_both(first, second)

    def split_special(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The text in order, cut into special tokens (with their id) and the rest (None)."""
        return self._special.split(text)

    @cached_property
    def special_edges(self) -> tuple[frozenset[str], frozenset[str]]:
        """Every beginning and every end of a special token that is not the whole of it."""
        cuts = [(text, n) for text in self.special_tokens for n in range(1, len(text))]
        return frozenset(text[:n] for text, n in cuts), frozenset(text[n:] for text, n in cuts)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of ids, U+FFFD where they are not UTF-8. `skip_special` leaves `control_ids` out."""
        hidden = self.control_ids if skip_special else frozenset()
        data = b"".join([self.token_bytes(token_id) for token_id in ids if token_id not in hidden])
        if self.leading_blank:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token; of a special one, its text. InvalidRequest: no such id."""
        if not 0 <= token_id < self.vocab_size:
            limit = self.vocab_size - 1
            raise InvalidRequest(f"token id {token_id} is outside the vocabulary, 0 to {limit}")
        known = self._bytes[token_id]
        if known is None:
            vocabulary = self._vocabulary
            # Added tokens are written as they are; in SentencePiece's way blanks are marked though.
            as_text = token_id in self.special_ids or (
                token_id in vocabulary.kinds.words and vocabulary.spelling is byte_level
            )
            spelling = plain if as_text else vocabulary.spelling
            known = self._bytes[token_id] = spelling(vocabulary.tokens[token_id])
        return known

    def is_special(self, token_id: int) -> bool:
        """Whether the token is one that plain text never produces."""
        return token_id in self.special_ids

    def _encode_plain(self, text: str, before: int | None) -> list[int]:
        """`before` is the added token that stands before the text, if one does."""
        encode, begins_after = self._vocabulary.encoder.encode, self._vocabulary.begins_after
        ids: list[int] = []
        for piece, token_id in self._words.split(text):
            if token_id is None:
                ids += encode(piece, before is None or before in begins_after)
            else:
                ids.append(token_id)
                before = token_id
        return ids
