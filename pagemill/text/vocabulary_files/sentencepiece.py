"""SentencePiece's own model files, read without its package.

Owns the meaning of their fields (ModelProto): pieces with scores and types, and what trainer and
normalizer say.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pagemill.small_files import read_bytes
from pagemill.text.charsmap import CharsMap
from pagemill.text.encoder import Encoder, NoTokenAcross
from pagemill.text.kinds.spm import ranked_pairs
from pagemill.text.kinds.unigram import likeliest
from pagemill.text.sentences import Sentences
from pagemill.text.spelling import BLANK, blanks_marked
from pagemill.text.vocabulary import (
    MAX_TOKENS,
    Vocabulary,
    check_tokens,
    find_ends,
    first_duplicate,
    sort_kinds,
)
from pagemill.text.vocabulary_files.files import MAX_BYTES, bad, shown, unsupported
from pagemill.text.vocabulary_files.protobuf import Value, fields
from pagemill.text.vocabulary_files.settings import Settings

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # of ModelProto
_TEXT, _SCORE, _TYPE = 1, 2, 3  # of a piece
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_MODEL_TYPE, _AS_SUFFIX, _BOS, _EOS = 3, 24, 41, 42  # of the trainer
_CHARSMAP, _PREFIX, _MERGE_BLANKS, _ESCAPE = 2, 3, 4, 5  # of the normalizer
_UNIGRAM, _BPE = 1, 2
_MINUS_ONE = (1 << 64) - 1
_unpack_score = struct.Struct("<f").unpack


@dataclass(slots=True)
class Pieces:
    """By id. Tokens that were added later stand at the end."""

    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)

    def add(self, text: str, score: float, kind: int) -> None:
        self.texts.append(text)
        self.scores.append(score)
        self.types.append(kind)

    def of(self, *kinds: int) -> list[int]:
        return [token_id for token_id, kind in enumerate(self.types) if kind in kinds]


class _Spec:
    """Numbers and bytes of a message by their field, the last of several."""

    def __init__(self, data: bytes) -> None:
        self._fields = dict(fields(data))

    def number(self, key: int, default: int) -> int:
        value = self._fields.get(key, default)
        if not isinstance(value, int):
            raise ValueError(f"field {key} is no number")
        return value

    def data(self, key: int) -> bytes:
        value = self._fields.get(key, b"")
        if not isinstance(value, bytes):
            raise ValueError(f"field {key} is a number")
        return value


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What the file says, with the tokens that tokenizer_config.json adds."""

    pieces: Pieces
    is_bpe: bool
    charsmap: CharsMap | None
    prefix: bool  # a text begins with a blank that was not in it
    merge_blanks: bool
    suffix: bool
    ends: Sequence[int | None]  # the begin and the end token


def read(path: Path, settings: Settings) -> Vocabulary:
    """Unigram and byte-pair models. Prompts of the latter begin with a begin token, those of the
    former end with an end token, where tokenizer_config.json does not say.
    """
    return _vocabulary(path, settings, read_model(path, settings))


def read_model(path: Path, settings: Settings) -> ModelFile:
    """BadModelFile and Unsupported name the field."""
    try:
        pieces, trainer, normalizer = _parse(read_bytes(path, MAX_BYTES))
        rules = normalizer.data(_CHARSMAP)
        charsmap = CharsMap(rules) if rules else None
        flags = [bool(normalizer.number(key, 1)) for key in (_PREFIX, _MERGE_BLANKS, _ESCAPE)]
        suffix = bool(trainer.number(_AS_SUFFIX, 0))
        kind = trainer.number(_MODEL_TYPE, _UNIGRAM)
        stated = [trainer.number(key, default) for key, default in ((_BOS, 1), (_EOS, 2))]
    except ValueError as error:
        raise bad(path, "", str(error)) from None
    prefix, merge_blanks, marks_blanks = flags
    if kind not in (_UNIGRAM, _BPE):
        raise unsupported(path, "trainer_spec.model_type", f"{kind}; supported: unigram, bpe")
    if not marks_blanks:
        raise unsupported(path, "normalizer_spec.escape_whitespaces", "false")
    _add(path, pieces, settings)
    ends = [
        _end_id(path, pieces.texts, settings, role, token_id)
        for role, token_id in zip(("bos", "eos"), stated, strict=True)
    ]
    return ModelFile(pieces, kind == _BPE, charsmap, prefix, merge_blanks, suffix, ends)


def _vocabulary(path: Path, settings: Settings, model_file: ModelFile) -> Vocabulary:
    pieces, is_bpe = model_file.pieces, model_file.is_bpe
    bos_id, eos_id = model_file.ends
    sentences = Sentences(
        model_file.charsmap,
        prefix=model_file.prefix,
        merge_blanks=model_file.merge_blanks,
        suffix=model_file.suffix,
    )
    texts, scores = pieces.texts, pieces.scores
    ids = {text: token_id for token_id, text in enumerate(texts)}
    control, user_defined = pieces.of(_CONTROL, _UNKNOWN), pieces.of(_USER_DEFINED)
    found = find_ends(ids, frozenset(control + user_defined))
    kinds = sort_kinds(control, user_defined, texts, found)
    # What holds blanks is found when they are marked, other words before anything is replaced.
    with_blanks = {texts[i]: i for i in kinds.words if {" ", BLANK} & set(texts[i])}
    kinds = replace(kinds, words=kinds.words.difference(with_blanks.values()))
    unknown, unused = pieces.of(_UNKNOWN), pieces.of(_UNUSED)
    model: Any
    if is_bpe:
        if unused:
            raise unsupported(path, "pieces", "unused ones in a byte-pair model")
        apart = kinds.words.union(with_blanks.values())
        model = ranked_pairs(texts, scores, kinds.special, apart, unknown[0] if unknown else None)
    else:
        if not unknown:
            raise bad(path, "pieces", "none is the unknown one")
        hidden = kinds.added.union(unused, with_blanks.values())
        model = likeliest(texts, scores, hidden, unknown[0])
    return Vocabulary(
        tokens=texts,
        encoder=Encoder(
            model,
            normalize=sentences.normalize,
            border=NoTokenAcross(texts),
            words=with_blanks,
        ),
        spelling=blanks_marked,
        kinds=kinds,
        bos_id=bos_id,
        eos_ids=settings.ends(len(texts)).union(found, [] if eos_id is None else [eos_id]),
        frame=settings.frame(bos_id, eos_id, add_bos=is_bpe, add_eos=not is_bpe),
        leading_blank=sentences.prefix,
        begins_after=kinds.control if settings.legacy else frozenset(),
        max_length=settings.max_length,
    )


def _parse(data: bytes) -> tuple[Pieces, _Spec, _Spec]:
    messages: list[Value] = []
    specs: dict[int, Value] = {}
    for number, value in fields(data):
        if number == _PIECES:
            messages.append(value)
        else:
            specs[number] = value
    if not 0 < len(messages) <= MAX_TOKENS:
        raise ValueError(f"has {len(messages)} pieces, the limit is {MAX_TOKENS}")
    pieces = Pieces()
    for message in messages:
        if not isinstance(message, bytes):
            raise ValueError("a piece is a number")
        _read_piece(message, pieces)
    if wrong := check_tokens(pieces.texts):
        raise ValueError(f"pieces: {wrong}")
    if len(set(pieces.texts)) < len(pieces.texts):
        raise ValueError(f"pieces: {first_duplicate(pieces.texts)}")
    trainer, normalizer = (specs.get(number, b"") for number in (_TRAINER, _NORMALIZER))
    if not isinstance(trainer, bytes) or not isinstance(normalizer, bytes):
        raise ValueError("trainer_spec or normalizer_spec is a number")
    return pieces, _Spec(trainer), _Spec(normalizer)


def _read_piece(message: bytes, pieces: Pieces) -> None:
    found: dict[int, Value] = dict(fields(message))
    text, score = found.get(_TEXT), found.get(_SCORE, bytes(4))
    kind = found.get(_TYPE, _NORMAL)
    number = len(pieces.texts)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and len(score) == 4):
        raise ValueError(f"piece {number} has no text, or a score that is no number")
    if not isinstance(kind, int) or not _NORMAL <= kind <= _BYTE:
        raise ValueError(f"piece {number} has type {kind!r}")
    (value,) = _unpack_score(score)
    if value - value != 0:
        raise ValueError(f"piece {number} has score {value}")
    try:
        pieces.add(text.decode(), value, kind)
    except UnicodeDecodeError:
        raise ValueError(f"piece {number}, {text[:32]!r}, is not UTF-8") from None


def _add(path: Path, pieces: Pieces, settings: Settings) -> None:
    """Tokens of tokenizer_config.json that the model does not have follow its own."""
    known = frozenset(pieces.texts)
    for token in sorted(settings.added, key=lambda token: token.id):
        if token.content in known:
            continue
        if token.id != len(pieces.texts):
            name, count = shown(token.content), len(pieces.texts)
            raise bad(
                path, "added_tokens_decoder", f"{name} has id {token.id}, the next is {count}"
            )
        pieces.add(token.content, 0.0, _CONTROL if token.special else _USER_DEFINED)


def _end_id(path: Path, texts: list[str], settings: Settings, role: str, stated: int) -> int | None:
    """The id of a token with a role: as tokenizer_config.json names it, else as the model does."""
    if role in settings.named:
        return texts.index(settings.named[role]) if settings.named[role] in texts else None
    if stated == _MINUS_ONE:
        return None
    if stated >= len(texts):
        raise bad(path, f"trainer_spec.{role}_id", f"is {stated}, there are {len(texts)} pieces")
    return stated
