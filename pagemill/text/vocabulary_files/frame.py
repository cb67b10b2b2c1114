"""The part of tokenizer.json that says what stands around texts: `post_processor`."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from pagemill.text.frames import Frame, Part, part
from pagemill.text.vocabulary_files.files import bad, convert, shown, unsupported
from pagemill.text.vocabulary_files.settings import Settings

_MAX_IDS = 64  # of one special token's
_NOTHING = ("ByteLevel",)  # what changes no ids


class _Special(msgspec.Struct):
    ids: list[int]


class _Named(msgspec.Struct):
    id: str
    type_id: int = 0


class _Piece(msgspec.Struct):
    """One of the two is there."""

    SpecialToken: _Named | None = None
    Sequence: _Named | None = None


class _Template(msgspec.Struct):
    single: list[_Piece]
    pair: list[_Piece]
    special_tokens: dict[str, _Special]


class _Pair(msgspec.Struct):
    """Of BertProcessing and RobertaProcessing: tokens with their ids."""

    sep: tuple[str, int]
    cls: tuple[str, int]


def read_frame(
    path: Path, value: dict[str, Any] | None, settings: Settings, ids: dict[str, int]
) -> Frame:
    """What the flags of tokenizer_config.json come to if there are any, else what the file says."""
    if settings.adds or value is None:
        return settings.frame(settings.id_of("bos", ids), settings.id_of("eos", ids))
    steps = [step for step in _steps(path, value) if step.get("type") not in _NOTHING]
    if not steps:
        return Frame()
    if len(steps) > 1:
        raise unsupported(path, "post_processor", "more than one step")
    return _READERS[steps[0]["type"]](path, steps[0], len(ids))


def _steps(path: Path, value: dict[str, Any]) -> list[dict[str, Any]]:
    steps = value.get("processors") if value.get("type") == "Sequence" else [value]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise bad(path, "post_processor", "processors is no list of objects")
    for step in steps:
        if step.get("type") not in (*_READERS, *_NOTHING):
            raise unsupported(path, "post_processor", shown(step.get("type")))
    return steps


def _template(path: Path, value: dict[str, Any], num_tokens: int) -> Frame:
    template = convert(value, _Template, path, "post_processor")
    before, after = _split(path, template, template.single, "A")
    start, between, end = _split(path, template, template.pair, "AB")
    types = [piece.Sequence.type_id for piece in template.pair if piece.Sequence]
    frame = Frame(before, after, (start, between, end), (types[0], types[1]))
    return _checked(path, frame, num_tokens)


def _split(path: Path, template: _Template, pieces: list[_Piece], texts: str) -> list[Part]:
    """What stands before, between and after the texts, which must come in that order."""
    found: list[tuple[list[int], list[int]]] = [([], [])]
    order = ""
    for piece in pieces:
        if piece.Sequence is not None:
            order += piece.Sequence.id
            found.append(([], []))
        elif piece.SpecialToken is not None and piece.SpecialToken.id in template.special_tokens:
            ids = template.special_tokens[piece.SpecialToken.id].ids[:_MAX_IDS]
            found[-1][0].extend(ids)
            found[-1][1].extend([piece.SpecialToken.type_id] * len(ids))
        else:
            raise bad(path, "post_processor", "a piece is neither a text nor a special token")
    if order != texts:
        raise unsupported(path, "post_processor", f"texts in the order {shown(order)}")
    return [Part(tuple(ids), tuple(types)) for ids, types in found]


def _bert(path: Path, value: dict[str, Any], num_tokens: int) -> Frame:
    pair = convert(value, _Pair, path, "post_processor")
    before, after = part(pair.cls[1]), part(pair.sep[1])
    both = (before, after, part(pair.sep[1], type_id=1))
    return _checked(path, Frame(before, after, both, (0, 1)), num_tokens)


def _roberta(path: Path, value: dict[str, Any], num_tokens: int) -> Frame:
    pair = convert(value, _Pair, path, "post_processor")
    before, after = part(pair.cls[1]), part(pair.sep[1])
    both = (before, part(pair.sep[1], pair.sep[1]), after)
    return _checked(path, Frame(before, after, both), num_tokens)


def _checked(path: Path, frame: Frame, num_tokens: int) -> Frame:
    for token_id in (*frame.before.ids, *frame.after.ids, *(i for p in frame.pair for i in p.ids)):
        if not 0 <= token_id < num_tokens:
            raise bad(path, "post_processor", f"id {token_id}, there are {num_tokens} tokens")
    return frame


_READERS = MappingProxyType(
    {
        "TemplateProcessing": _template,
        "BertProcessing": _bert,
        "RobertaProcessing": _roberta,
    }
)
