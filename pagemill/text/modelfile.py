"""Modelfiles: a model made from another, in lines of instructions, as Ollama has them.

Owns their grammar and what of them is honoured. What is not is refused with its line, for a model
that ignores half of its file is not the one that was asked for.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pagemill.errors import BadModelFile, InvalidRequest, Unsupported
from pagemill.small_files import read_text
from pagemill.text.overlay import MAX_OPENING, Opening, Overlay, checked_knob
from pagemill.text.templates import TemplateSource
from pagemill.types import KNOB_RANGES

_MAX_BYTES = 1 << 20
_QUOTES = '"""'
_ROLES = ("system", "user", "assistant")
# Parameters by the names that these files have for them.
_KNOBS = MappingProxyType(
    {
        **{name: name for name in KNOB_RANGES},
        "num_predict": "max_tokens",
        "repeat_penalty": "repetition_penalty",
    }
)
_ELSEWHERE = MappingProxyType(
    {
        "num_ctx": "`pagemill serve --max-model-len` sets the context",
        "num_thread": "`pagemill serve --threads` sets it",
        "seed": "requests set it",
    }
)
_KNOWN = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "MESSAGE", "LICENSE")
_LATER = ("ADAPTER", "REQUIRES", "RENDERER", "PARSER", "DRAFT")
# Go's templates name fields with a dot and have keywords where Jinja has names.
_GO = re.compile(r"\{\{-?\s*(?:\.|\$|(?:if|range|end|else|with|block|define|template)\b)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its line, its word in capitals, and what follows."""

    line: int
    word: str
    value: str


@dataclass(frozen=True, slots=True)
class Modelfile:
    """`stops` are texts that end an answer, with their lines: they must be special tokens."""

    base: str
    overlay: Overlay
    stops: tuple[tuple[int, str], ...] = ()


def read_modelfile(path: Path) -> Modelfile:
    """BadModelFile, InvalidRequest and Unsupported name the file and the line."""
    name = ascii(path.name)
    text = read_text(path, _MAX_BYTES)
    found: dict[str, Any] = {"messages": (), "defaults": {}}
    base, stops = "", []
    for one in _instructions(text, name):
        where = f"{name}, line {one.line}: {one.word}"
        if one.word in ("FROM", "TEMPLATE", "SYSTEM") and not one.value.strip():
            raise InvalidRequest(f"{where} says nothing")
        if one.word == "FROM":
            if base:
                raise InvalidRequest(f"{where}: there is one already")
            base = one.value
        elif one.word == "PARAMETER":
            key, _, value = one.value.partition(" ")
            value = _unquoted(value.strip())
            if key.lower() == "stop":
                stops.append((one.line, value))
            else:
                found["defaults"] |= [_parameter(where, key.lower(), value)]
        elif one.word == "MESSAGE":
            found["messages"] += (_message(where, one.value),)
        elif one.word == "TEMPLATE":
            found["template"] = _template(where, one.value)
        else:
            found[one.word.lower()] = one.value
    if not base:
        raise InvalidRequest(f"{name} has no FROM, which names the model to begin with")
    if len(found["messages"]) > MAX_OPENING:
        count = len(found["messages"])
        raise InvalidRequest(f"{name}: {count} times MESSAGE, the limit is {MAX_OPENING}")
    return Modelfile(base, Overlay(base, **found), tuple(stops))


def _instructions(text: str, name: str) -> Iterator[Instruction]:
    """A value goes to the end of its line, or from three quotes to the next three."""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        word, _, value = line.strip().partition(" ")
        word, value = word.upper(), value.strip()
        if word in _LATER:
            raise Unsupported(f"{name}, line {number}: {word} cannot be honoured")
        if word not in _KNOWN:
            known = ", ".join(_KNOWN)
            raise InvalidRequest(f"{name}, line {number}: {word[:40]!a} is not one of {known}")
        head, quotes, rest = value.partition(_QUOTES)
        if quotes and not _unquoted(head.strip()).count('"'):
            parts = [rest]
            while _QUOTES not in parts[-1]:
                following = next(lines, None)
                if following is None:
                    raise BadModelFile(f'{name}, line {number}: """ is never closed')
                parts.append(following[1])
            inner, _, after = "\n".join(parts).partition(_QUOTES)
            if after.strip():
                raise BadModelFile(f'{name}, line {number}: {after[:40]!a} follows the closing """')
            value = f"{head.strip()} {inner}" if head.strip() else inner
        elif word != "PARAMETER":
            value = _unquoted(value)
        yield Instruction(number, word, value)


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return value[1:-1] if quoted else value


def _parameter(where: str, key: str, text: str) -> tuple[str, int | float]:
    if key not in _KNOBS:
        why = _ELSEWHERE.get(key, f"there are stop, {', '.join(_KNOBS)}")
        raise Unsupported(f"{where} {key[:40]} cannot be honoured: {why}")
    try:
        return _KNOBS[key], checked_knob(_KNOBS[key], float(text))
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"{where} {key}: {error}") from None


def _message(where: str, value: str) -> Opening:
    role, _, content = value.partition(" ")
    if role not in _ROLES:
        raise InvalidRequest(f"{where}: role {role[:40]!a} is not one of {', '.join(_ROLES)}")
    return Opening(role, _unquoted(content.strip()))  # type: ignore[arg-type]  # just compared


def _template(where: str, text: str) -> str:
    if _GO.search(text):
        raise Unsupported(
            f"{where} is written in Go's language; only Jinja templates can be used. Leave it out "
            "where the base brings its own: `pagemill show --template` prints it"
        )
    try:
        TemplateSource(text, where).compile({})
    except BadModelFile as error:
        raise InvalidRequest(f"{where}: {error.message}") from None
    if "messages" not in text:
        raise InvalidRequest(f"{where} makes nothing of the variable 'messages'")
    return text
