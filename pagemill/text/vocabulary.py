"""The token list of a model file, read once into a type that cannot be wrong.

Owns the meaning of the keys tokenizer.ggml.* and the byte alphabet of byte-level vocabularies.
Every count and length is compared with a limit before anything is built from it: nobody vouches for
the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from operator import add, itemgetter, methodcaller
from typing import Any

from pagemill.errors import BadModelFile, Unsupported
from pagemill.text import pretokenizers
from pagemill.text.pretokenizers import PreTokenizer

MAX_TOKENS = 1 << 20
MAX_MERGES = 1 << 21
MAX_TOKEN_CHARS = 4096
MAX_SPECIAL = 1 << 14

_MODELS = ("gpt2",)
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # of tokenizer.ggml.token_type
_TYPES = range(7)
# Control tokens that end an answer in the model families whose files name only one of them.
_END_TEXTS = frozenset(
    f"<{name}>"
    for name in (
        *("|im_end|", "|endoftext|", "|eot_id|", "|eom_id|", "|end_of_text|", "|end|", "|return|"),
        *("end_of_turn", "/s"),
    )
)
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A checked byte-level vocabulary. `ids` maps a token's text, in the byte alphabet, to its id.

    `control` tokens never show in answers; `special` are these and the user-defined ones: all that
    plain text must never produce.
    """

    cutting: PreTokenizer
    tokens: tuple[str, ...]
    ids: Mapping[str, int]
    merges: Sequence[tuple[str, ...]]  # pairs
    control: frozenset[int]
    special: frozenset[int]
    bos_id: int | None
    eos_ids: frozenset[int]
    add_bos: bool


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Check and collect tokenizer.ggml.*. BadModelFile names the key; Unsupported what exists."""
    model = _value(metadata, "model", str, None)
    if model not in _MODELS:
        raise Unsupported(
            f"tokenizer model {ascii(model)[:64]} is not supported; supported: {', '.join(_MODELS)}"
        )
    tokens = _tokens(metadata)
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        raise _bad("tokens", _first_duplicate(tokens))
    control, special = _kinds(metadata, tokens)
    cutting = pretokenizers.get(_value(metadata, "pre", str, "default"))
    bos_id = _token_id(metadata, "bos_token_id", len(tokens))
    ends = {_token_id(metadata, key, len(tokens)) for key in _END_KEYS}
    ends |= {ids[text] for text in _END_TEXTS & ids.keys() if ids[text] in control}
    return Vocabulary(
        cutting=cutting,
        tokens=tuple(tokens),
        ids=ids,
        merges=_merges(metadata, ids, frozenset(tokens[i] for i in special)),
        control=control,
        special=special,
        bos_id=bos_id,
        eos_ids=frozenset(end for end in ends if end is not None),
        add_bos=_value(metadata, "add_bos_token", bool, cutting.add_bos) and bos_id is not None,
    )


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = _strings(metadata, "tokens", MAX_TOKENS)
    if not tokens:
        raise _bad("tokens", "is empty")
    if not all(tokens):
        raise _bad("tokens", f"item {tokens.index('')} is empty")
    longest = max(map(len, tokens))
    if longest > MAX_TOKEN_CHARS:
        raise _bad("tokens", f"a token has {longest} characters, the limit is {MAX_TOKEN_CHARS}")
    return tokens


def _kinds(
    metadata: Mapping[str, Any], tokens: Sequence[str]
) -> tuple[frozenset[int], frozenset[int]]:
    """Ids of control tokens, and of these with the user-defined ones."""
    kinds = metadata.get("tokenizer.ggml.token_type")
    if kinds is None:
        return frozenset(), frozenset()
    kinds = _items(kinds, "token_type", MAX_TOKENS)
    if len(kinds) != len(tokens):
        raise _bad("token_type", f"has {len(kinds)} items for {len(tokens)} tokens")
    if not all(type(kind) is int and kind in _TYPES for kind in set(kinds)):
        raise _bad("token_type", f"holds a type outside {_TYPES.start} to {_TYPES.stop - 1}")
    count = sum(map(kinds.count, (_UNKNOWN, _CONTROL, _USER_DEFINED)))
    if count > MAX_SPECIAL:
        raise _bad("token_type", f"marks {count} tokens as special, the limit is {MAX_SPECIAL}")
    control = [i for i, kind in enumerate(kinds) if kind in (_UNKNOWN, _CONTROL)]
    user_defined = [i for i, kind in enumerate(kinds) if kind == _USER_DEFINED]
    return frozenset(control), frozenset(control + user_defined)


def _merges(
    metadata: Mapping[str, Any], ids: Mapping[str, int], special: frozenset[str]
) -> list[tuple[str, ...]]:
    """Pairs in order of rank, without those that would build a special token out of plain text."""
    lines = _strings(metadata, "merges", MAX_MERGES)
    pairs = list(map(tuple, map(methodcaller("split", " "), lines)))
    # Whole columns at once: a loop over single merges would be a third of a model's start.
    if set(map(len, pairs)) <= {2}:
        lefts, rights = (list(map(itemgetter(side), pairs)) for side in (0, 1))
        made = list(map(add, lefts, rights))
        if all(map(ids.__contains__, chain(lefts, rights, made))):
            if special.isdisjoint(made):
                return pairs
            return [pair for pair, text in zip(pairs, made, strict=True) if text not in special]
    raise _bad("merges", _first_wrong_merge(lines, ids))


def _value(metadata: Mapping[str, Any], key: str, kind: type[Any], default: Any) -> Any:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if value is None:
        raise _bad(key, "is missing")
    if type(value) is not kind:
        raise _bad(key, f"is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _token_id(metadata: Mapping[str, Any], key: str, num_tokens: int) -> int | None:
    if f"tokenizer.ggml.{key}" not in metadata:
        return None
    value: int = _value(metadata, key, int, None)
    if not 0 <= value < num_tokens:
        raise _bad(key, f"is {value}, there are {num_tokens} tokens")
    return value


def _items(value: Any, key: str, limit: int) -> list[Any]:
    if isinstance(value, memoryview):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise _bad(key, f"is a {type(value).__name__}, not an array")
    if len(value) > limit:
        raise _bad(key, f"has {len(value)} items, the limit is {limit}")
    return list(value)


def _strings(metadata: Mapping[str, Any], key: str, limit: int) -> list[str]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        raise _bad(key, "is missing")
    items = _items(value, key, limit)
    if set(map(type, items)) - {str}:
        raise _bad(key, "holds something else than strings")
    return items


def _first_wrong_merge(lines: Sequence[str], ids: Mapping[str, int]) -> str:
    for number, line in enumerate(lines):
        left, _, right = line.partition(" ")
        if not (left in ids and right in ids and left + right in ids):
            return f"item {number}, {line[:64]!a}, does not join two tokens to a third"
    raise AssertionError("no wrong merge")


def _first_duplicate(tokens: Sequence[str]) -> str:
    seen: dict[str, int] = {}
    for number, token in enumerate(tokens):
        first = seen.setdefault(token, number)
        if first != number:
            return f"items {first} and {number} are both {token[:64]!a}"
    raise AssertionError("no duplicate")


def _bad(key: str, reason: str) -> BadModelFile:
    return BadModelFile(f"tokenizer.ggml.{key}: {reason}")


@cache
def byte_alphabet() -> Mapping[str, int]:
    """The byte that each character of a byte-level vocabulary stands for, as GPT-2 set it down:
    printable Latin-1 characters are themselves, the other 68 bytes follow from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + number): byte for number, byte in enumerate(others)}
