"""Hides special tokens that were typed, while a template works and special tokens are found.

Owns the rule that what users type is text: a special token spelled out in a message never becomes
one. The model's own earlier words are not typed: in an assistant's turn, tokens that show in
answers (a `</think>`, say) stay what they are, so that templates find the reasoning that they leave
out, and a conversation sent back has the ids that it had. Tokens that never show are hidden there
too, and those that frame the turns of others.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from pagemill.errors import InvalidRequest
from pagemill.text.tokenizer import Tokenizer

_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_OWN_WORDS = ("content", "reasoning_content", "thinking")


class Disguise:
    """One rendering's masks.

    Each typed token stands as one character of a private-use plane. The same characters close off a
    text whose end or beginning could grow into a special token together with what the template puts
    next to it. Text without either, nearly all text, is left as it is.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], frame: str) -> None:
        """`texts` are all that goes into the rendering: no mask is a character of theirs. `frame`
        is what the template makes of turns that are not an assistant's.
        """
        self._tokenizer = tokenizer
        self._frame = frame
        self._texts = texts
        self._free: Iterator[str] | None = None
        self._masks: dict[str, str] = {}
        self._real: dict[int, str] = {}

    def put_on_turn(self, turn: Mapping[str, Any]) -> dict[str, Any]:
        """A message as the template may see it. Its role is one of ours."""
        own = _OWN_WORDS if turn["role"] == "assistant" else ()
        return {
            key: value
            if key == "role"
            else self.put_on(value, self._never_own)
            if key in own and isinstance(value, str)
            else self.put_on_all(value)
            for key, value in turn.items()
        }

    @cached_property
    def _never_own(self) -> frozenset[int]:
        framing = {i for _, i in self._tokenizer.split_special(self._frame) if i is not None}
        return self._tokenizer.control_ids | framing

    def put_on_all(self, value: Any) -> Any:
        """The same for every string in a JSON value."""
        if isinstance(value, str):
            return self.put_on(value, self._tokenizer.special_ids)
        if isinstance(value, Mapping):
            return {self._put_on_key(key): self.put_on_all(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.put_on_all(item) for item in value]
        return value

    def put_on(self, text: str, hidden: frozenset[int]) -> str:
        """A text without the tokens `hidden`, and without an end that could grow into a token."""
        text = self._hide_whole(text, hidden)
        begins, ends = self._tokenizer.special_edges
        longest = max(map(len, self._tokenizer.special_tokens), default=0)
        lengths = range(1, min(len(text) + 1, longest))
        if any(text[-length:] in begins for length in lengths):
            text += self._mask("")
        if any(text[:length] in ends for length in lengths):
            text = self._mask("") + text
        return text

    def take_off(self, text: str) -> str:
        """What was typed."""
        return text.translate(self._real) if self._real else text

    def _put_on_key(self, key: str) -> str:
        # Templates look up words by name: these keep their ends.
        hidden = self._tokenizer.special_ids
        return self._hide_whole(key, hidden) if key.isidentifier() else self.put_on(key, hidden)

    def _hide_whole(self, text: str, hidden: frozenset[int]) -> str:
        pieces = self._tokenizer.split_special(text)
        return "".join([self._mask(p) if i in hidden else p for p, i in pieces])

    def _mask(self, text: str) -> str:
        if text not in self._masks:
            if self._free is None:
                taken: set[str] = set().union(*self._texts)
                self._free = (char for char in map(chr, _PRIVATE_USE) if char not in taken)
            mask = next(self._free, "")
            if not mask:
                raise InvalidRequest("every private-use character is taken", param="messages")
            self._masks[text] = mask
            self._real[ord(mask)] = text
        return self._masks[text]
