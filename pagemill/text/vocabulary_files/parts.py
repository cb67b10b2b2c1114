"""The parts of tokenizer.json around its model: normalizer, pre-tokenizer, decoder.

Owns what of them is understood. The library builds them, after what could take unbounded time or
memory has been refused; it has no bounds of its own.
"""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers

from pagemill.text import expressions, pretokenizers, spelling
from pagemill.text.charsmap import CharsMap
from pagemill.text.encoder import Border, Normalize, NoTokenAcross, at_pieces
from pagemill.text.spelling import Spelling
from pagemill.text.vocabulary_files.files import bad, shown, unsupported

_MAX_STEPS = 64
_MAX_GROWTH = 64  # how many times longer a normalizer may make a text
_MAX_CHARSMAP = 1 << 22
# Expressions of well-known models, some of which a general rule cannot tell from costly ones, and
# what is used instead.
_KNOWN = {pattern: pattern for row in pretokenizers.TABLE.values() for pattern in row.patterns}
_KNOWN |= pretokenizers.SAME
_ROWS = {row.patterns: row for row in pretokenizers.TABLE.values()}
_UNKNOWN_WINDOW = 1024  # so that time which grows with the square of a window stays small
_BLANK_ENDS = r"(?<=\S)(?=\s)"


@dataclass(frozen=True, slots=True)
class Cutting:
    """A pre-tokenizer, as the parameters of an Encoder. `border` wants the tokens."""

    border: Callable[[Sequence[str]], Border]
    head: Any = None
    rest: Any = None
    begins_again: bool = True  # what follows an added token counts as a beginning
    window: int | None = None


def read_cutting(path: Path, value: dict[str, Any] | None) -> Cutting:
    """The pre-tokenizer: one for beginnings of texts, and one that puts no blank before a text."""
    steps = list(steps_of(path, "pre_tokenizer", value, "pretokenizers"))
    patterns = tuple(_make_safe(path, "pre_tokenizer", step) for step in steps)
    regular = tuple(pattern for pattern in patterns if pattern is not None)
    rest = [_continued(step, number == 0) for number, step in enumerate(steps)]
    return Cutting(
        border=_border(steps, regular),
        head=_build(path, "pre_tokenizer", "pretokenizers", steps),
        rest=_build(path, "pre_tokenizer", "pretokenizers", rest),
        begins_again=not any(step.get("prepend_scheme") == "first" for step in steps),
        window=None if _KNOWN.keys() >= set(regular) else _UNKNOWN_WINDOW,
    )


def read_normalizer(path: Path, value: dict[str, Any] | None, *, closed: bool) -> Normalize | None:
    """`closed`: the vocabulary uses U+FFFF for names that no text may hold."""
    steps = list(steps_of(path, "normalizer", value, "normalizers"))
    growth = 1
    for step in steps:
        _make_safe(path, "normalizer", step, linear=True)
        growth *= _growth(path, step)
    if growth > _MAX_GROWTH:
        raise bad(path, "normalizer", f"makes texts {growth} times longer, limit {_MAX_GROWTH}")
    normalizer = _build(path, "normalizer", "normalizers", steps)

    def normalize(text: str, begins: bool) -> str:
        if closed:
            text = text.replace("\uffff", "\ufffd")
        return normalizer.normalize_str(text) if normalizer is not None else text

    return normalize if closed or normalizer is not None else None


def read_spelling(path: Path, value: dict[str, Any] | None) -> tuple[Spelling, bool]:
    """What bytes a token stands for, and whether a text begins with a blank too many."""
    steps = list(steps_of(path, "decoder", value, "decoders"))
    kinds = [step["type"] for step in steps]
    if not steps:
        return partial(spelling.word_rests_marked, prefix=None), True
    if kinds == ["ByteLevel"]:
        return spelling.byte_level, False
    if kinds == ["WordPiece"]:
        prefix = _string(path, "decoder", steps[0], "prefix")
        return partial(spelling.word_rests_marked, prefix=prefix), True
    if kinds == ["BPEDecoder"]:
        suffix = _string(path, "decoder", steps[0], "suffix")
        return lambda token: spelling.plain(token.replace(suffix, " ") if suffix else token), False
    return _spelled_in_steps(path, steps)


def _spelled_in_steps(path: Path, steps: list[dict[str, Any]]) -> tuple[Spelling, bool]:
    """Of SentencePiece's kind: blanks replaced, bytes put together, a first blank taken off."""
    replaced: list[tuple[str, str]] = []
    in_bytes, leading_blank = False, False
    for step in steps:
        kind = step["type"]
        if kind == "Replace" and isinstance(step.get("pattern"), dict):
            old = _string(path, "decoder", step["pattern"], "String")
            replaced.append((old, _string(path, "decoder", step, "content")))
        elif kind == "Metaspace":
            replaced.append((_string(path, "decoder", step, "replacement"), " "))
            leading_blank = _prepends(step)
        elif kind == "ByteFallback":
            in_bytes = True
        elif kind == "Strip" and (step.get("content"), step.get("stop")) == (" ", 0):
            leading_blank = bool(step.get("start"))
        elif kind != "Fuse":
            raise unsupported(path, "decoder", shown(kind))

    def spell(token: str) -> bytes:
        if in_bytes and spelling.is_byte(token):
            return spelling.blanks_marked(token)
        for old, new in replaced:
            token = token.replace(old, new)
        return spelling.plain(token)

    return spell, leading_blank


def steps_of(
    path: Path, part: str, value: dict[str, Any] | None, members: str, level: int = 0
) -> Iterator[dict[str, Any]]:
    """The single steps of a part, whatever sequences they stand in."""
    if value is None:
        return
    if level > _MAX_STEPS:
        raise bad(path, part, "is nested too deep")
    if value.get("type") != "Sequence":
        if not isinstance(value.get("type"), str):
            raise bad(path, part, "a step has no type")
        yield value
        return
    inner = value.get(members)
    if not isinstance(inner, list) or len(inner) > _MAX_STEPS:
        raise bad(path, part, f"{members} is no list of at most {_MAX_STEPS} steps")
    for item in inner:
        if not isinstance(item, dict):
            raise bad(path, part, f"{members} holds something else than objects")
        yield from steps_of(path, part, item, members, level + 1)


def _make_safe(path: Path, part: str, step: dict[str, Any], *, linear: bool = False) -> str | None:
    """Check the step's expression, put a cheaper one in its place if there is one. The original."""
    pattern = step.get("pattern")
    if not isinstance(pattern, dict) or "Regex" not in pattern:
        return None
    expression = _string(path, part, pattern, "Regex")
    if linear or expression not in _KNOWN:
        try:
            expressions.check(expression, linear=linear)
        except expressions.TooCostly as error:
            raise unsupported(path, part, f"expression {shown(expression)} {error}") from None
    else:
        step["pattern"] = {"Regex": _KNOWN[expression]}
    return expression


def _growth(path: Path, step: dict[str, Any]) -> int:
    """How many times longer a step of the normalizer makes a text at most."""
    kind = step["type"]
    if kind == "Precompiled":
        _check_charsmap(path, step)
    if kind == "Prepend" and len(_string(path, "normalizer", step, "prepend")) > _MAX_GROWTH:
        raise bad(path, "normalizer", "prepends too much")
    if kind != "Replace":
        return 1
    content = len(_string(path, "normalizer", step, "content"))
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and "String" in pattern:
        size = len(_string(path, "normalizer", pattern, "String"))
        if not size:
            raise bad(path, "normalizer", "replaces nothing by something")
        return max(1, -(-content // size))
    return 1 + content


def _check_charsmap(path: Path, step: dict[str, Any]) -> None:
    encoded = _string(path, "normalizer", step, "precompiled_charsmap")
    if len(encoded) > _MAX_CHARSMAP:
        raise bad(path, "normalizer", f"precompiled_charsmap: the limit is {_MAX_CHARSMAP}")
    try:
        CharsMap(base64.b64decode(encoded, validate=True))
    except ValueError as error:
        raise bad(path, "normalizer", f"precompiled_charsmap: {error}") from None


def _continued(step: dict[str, Any], outermost: bool) -> dict[str, Any]:
    """The step for a text that goes on: it puts no blank before it."""
    if step["type"] == "Metaspace" and (outermost or step.get("prepend_scheme") == "first"):
        kept = {key: value for key, value in step.items() if key != "add_prefix_space"}
        return {**kept, "prepend_scheme": "never"}
    if step["type"] == "ByteLevel" and outermost:
        return {**step, "add_prefix_space": False}
    return step


def _prepends(step: dict[str, Any]) -> bool:
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
    return bool(scheme != "never")


def _border(
    steps: list[dict[str, Any]], regular: tuple[str, ...]
) -> Callable[[Sequence[str]], Border]:
    kinds = {step["type"] for step in steps}
    safe = tuple(_KNOWN.get(pattern, "") for pattern in regular)
    if safe in _ROWS:
        return lambda tokens: at_pieces(_ROWS[safe].border)
    if any(step["type"] == "ByteLevel" and step.get("use_regex", True) for step in steps):
        return lambda tokens: at_pieces(pretokenizers.BORDER)
    cut_at_blanks = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer"} & kinds
    if regular or cut_at_blanks or "ByteLevel" in kinds:
        return lambda tokens: at_pieces(_BLANK_ENDS)
    if any(step["type"] == "Metaspace" and step.get("split", True) for step in steps):
        return lambda tokens: at_pieces(r"(?<=\S)(?= )")
    return NoTokenAcross


def _build(path: Path, part: str, members: str, steps: list[dict[str, Any]]) -> Any:
    """The library's object for a part, or None for no steps."""
    if not steps:
        return None
    file: dict[str, Any] = {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer"), None),
        **dict.fromkeys(("post_processor", "decoder"), None),
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""},
        part: {"type": "Sequence", members: steps},
    }
    try:
        return getattr(tokenizers.Tokenizer.from_str(json.dumps(file)), part)
    except Exception as error:  # all that the library raises
        raise bad(path, part, str(error)[:200]) from None


def _string(path: Path, part: str, value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise bad(path, part, f"{key} is {shown(text)}, not a string")
    return text
