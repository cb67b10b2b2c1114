"""The keys tokenizer.ggml.* of a model file, read strictly.

Owns types, lengths and ids of what the keys hold. Every count and length is compared with a limit
before anything is built from it: nobody vouches for the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from math import isfinite
from typing import Any

from pagemill.errors import BadModelFile
from pagemill.text.frames import Frame, begin_and_end
from pagemill.text.vocabulary import (
    MAX_SPECIAL,
    MAX_TOKENS,
    TokenKinds,
    check_tokens,
    find_ends,
    first_duplicate,
    sort_kinds,
)

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # of token_type
_TYPES = range(7)
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True, slots=True)
class TokenList:
    """tokenizer.ggml.tokens with their types. `ids` holds every token by its text."""

    tokens: tuple[str, ...]
    ids: Mapping[str, int]
    kinds: TokenKinds
    bos_id: int | None
    eos_ids: frozenset[int]

    def plain_ids(self) -> dict[str, int]:
        """The tokens that plain text becomes."""
        ids = dict(self.ids)
        for token_id in self.kinds.added:
            del ids[self.tokens[token_id]]
        return ids


class Keys:
    """Values of tokenizer.ggml.*, each checked when it is asked for."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def has(self, key: str) -> bool:
        """Whether the file has the key."""
        return f"tokenizer.ggml.{key}" in self._metadata

    def value(self, key: str, kind: type[Any], default: Any) -> Any:
        """A value of that very type. BadModelFile if it is missing and `default` is None."""
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if value is None:
            raise bad(key, "is missing")
        if type(value) is not kind:
            raise bad(key, f"is a {type(value).__name__}, not a {kind.__name__}")
        return value

    def token_id(self, key: str, num_tokens: int, default: int | None = None) -> int | None:
        """The id of a token that exists. `default` counts only if there is such a token."""
        if not self.has(key):
            return default if default is not None and default < num_tokens else None
        value: int = self.value(key, int, None)
        if not 0 <= value < num_tokens:
            raise bad(key, f"is {value}, there are {num_tokens} tokens")
        return value

    def items(self, key: str, limit: int) -> list[Any]:
        """An array."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            raise bad(key, "is missing")
        if isinstance(value, memoryview):
            value = value.tolist()
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise bad(key, f"is a {type(value).__name__}, not an array")
        if len(value) > limit:
            raise bad(key, f"has {len(value)} items, the limit is {limit}")
        return list(value)

    def strings(self, key: str, limit: int) -> list[str]:
        """An array of strings."""
        items = self.items(key, limit)
        if set(map(type, items)) - {str}:
            raise bad(key, "holds something else than strings")
        return items

    def scores(self, num_tokens: int) -> list[float]:
        """A finite score for each token."""
        scores = self.items("scores", MAX_TOKENS)
        if len(scores) != num_tokens:
            raise bad("scores", f"has {len(scores)} items for {num_tokens} tokens")
        if set(map(type, scores)) - {float, int}:
            raise bad("scores", "holds something else than numbers")
        if not all(map(isfinite, scores)):
            raise bad("scores", "holds a number that is not finite")
        return scores

    def token_list(self, *, bos: int | None = None, eos: int | None = None) -> TokenList:
        """The tokens and their types. `bos` and `eos` count in files that do not say."""
        tokens = self.strings("tokens", MAX_TOKENS)
        if wrong := check_tokens(tokens):
            raise bad("tokens", wrong)
        ids = dict(zip(tokens, range(len(tokens)), strict=True))
        if len(ids) != len(tokens):
            raise bad("tokens", first_duplicate(tokens))
        by_type = self._types(len(tokens))
        control, user_defined = by_type[UNKNOWN] + by_type[CONTROL], by_type[USER_DEFINED]
        named = {self.token_id(key, len(tokens)) for key in END_KEYS[1:]}
        named.add(self.token_id(END_KEYS[0], len(tokens), eos))
        found = find_ends(ids, frozenset(control + user_defined))
        return TokenList(
            tokens=tuple(tokens),
            ids=ids,
            kinds=sort_kinds(control, user_defined, tokens, found),
            bos_id=self.token_id("bos_token_id", len(tokens), bos),
            eos_ids=found | frozenset(end for end in named if end is not None),
        )

    def frame(self, tokens: TokenList, *, add_bos: bool, add_eos: bool = False) -> Frame:
        """What stands around prompts. `add_bos` and `add_eos` count in files that do not say."""
        adds_bos, adds_eos = (
            self.value(f"add_{name}_token", bool, default)
            for name, default in (("bos", add_bos), ("eos", add_eos))
        )
        eos_id = self.token_id("eos_token_id", len(tokens.tokens))
        sep_id = self.token_id("seperator_token_id", len(tokens.tokens))
        both = adds_bos and adds_eos  # as encoders have it, which put two ends between texts
        adds_sep = self.value("add_sep_token", bool, both and sep_id is not None)
        return begin_and_end(
            tokens.bos_id if adds_bos else None,
            eos_id if adds_eos else None,
            *([sep_id] if adds_sep else []),
        )

    def blank_takers(self, tokens: TokenList) -> frozenset[int]:
        """Special tokens that take the blanks on their right: Phi-3's, which no key tells."""
        name = self._metadata.get("general.name")
        if not isinstance(name, str) or not name.lower().replace("-", "").startswith("phi3"):
            return frozenset()
        keep = {"<unk>", "<s>", "<|endoftext|>"}
        return frozenset(i for i in tokens.kinds.special if tokens.tokens[i] not in keep)

    def _types(self, num_tokens: int) -> dict[int, list[int]]:
        """Ids of the types that mean something here."""
        found: dict[int, list[int]] = {UNKNOWN: [], CONTROL: [], USER_DEFINED: []}
        if not self.has("token_type"):
            return found
        types = self.items("token_type", MAX_TOKENS)
        if len(types) != num_tokens:
            raise bad("token_type", f"has {len(types)} items for {num_tokens} tokens")
        if not all(type(kind) is int and kind in _TYPES for kind in set(types)):
            raise bad("token_type", f"holds a type outside {_TYPES.start} to {_TYPES.stop - 1}")
        count = sum(map(types.count, found))
        if count > MAX_SPECIAL:
            raise bad("token_type", f"marks {count} tokens as special, the limit is {MAX_SPECIAL}")
        for kind in found:
            found[kind] = list(compress(range(num_tokens), map(kind.__eq__, types)))
        return found


def bad(key: str, reason: str) -> BadModelFile:
    """The error for a key."""
    return BadModelFile(f"tokenizer.ggml.{key}: {reason}")
