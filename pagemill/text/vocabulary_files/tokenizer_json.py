"""tokenizer.json: the format of the library `tokenizers`.

Owns its vocabulary and its added tokens. The models are built from checked lists, the parts around
them (see `parts`) by the library itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from tokenizers import models

from pagemill.small_files import read_bytes
from pagemill.text.encoder import Encoder
from pagemill.text.kinds.unigram import likeliest
from pagemill.text.merges import Pair, byte_pairs
from pagemill.text.vocabulary import (
    MAX_MERGES,
    MAX_TOKEN_CHARS,
    MAX_TOKENS,
    TokenKinds,
    Vocabulary,
    find_ends,
    is_mark,
    sort_kinds,
)
from pagemill.text.vocabulary_files.files import MAX_BYTES, Added, bad, parse, shown, unsupported
from pagemill.text.vocabulary_files.frame import read_frame
from pagemill.text.vocabulary_files.parts import (
    Cutting,
    read_cutting,
    read_normalizer,
    read_spelling,
)
from pagemill.text.vocabulary_files.settings import Settings

_MAX_WORD_CHARS = 1000  # of WordPiece, whose time grows with the square of a word's length


class File(msgspec.Struct):
    """The parts as they stand in the file."""

    model: msgspec.Raw
    added_tokens: list[Added] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


class Model(msgspec.Struct):
    """What is there of all kinds of models."""

    vocab: msgspec.Raw
    type: str = ""
    merges: msgspec.Raw = msgspec.Raw()
    unk_token: str | None = None
    unk_id: int | None = None
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    max_input_chars_per_word: int = 100
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


@dataclass(frozen=True, slots=True)
class _Tokens:
    """All tokens of a file: `texts` by id, `ids` by text, `scores` of a unigram model by id."""

    path: Path
    texts: Sequence[str]
    ids: dict[str, int]
    kinds: TokenKinds
    scores: Sequence[float] = ()

    def plain(self) -> dict[str, int]:
        """The tokens that plain text becomes."""
        plain = dict(self.ids)
        for token_id in self.kinds.special:
            plain.pop(self.texts[token_id], None)
        return plain


def read(path: Path, settings: Settings) -> Vocabulary:
    """Everything that the library knows, except what takes unbounded time or is not decided."""
    file, model, kind = read_parts(path)
    if kind not in _BUILDERS:
        raise unsupported(path, "model", f"{shown(kind)}; supported: {', '.join(_BUILDERS)}")
    texts, scores = _read_vocabulary(path, kind, model)
    tokens, added, found = _with_added(path, texts, scores, file.added_tokens, settings)
    cutting = read_cutting(path, file.pre_tokenizer)
    spelling, leading_blank = read_spelling(path, file.decoder)
    bos_id = settings.id_of("bos", tokens.ids)
    eos_id = settings.id_of("eos", tokens.ids)
    ends = found | settings.ends(len(tokens.texts)) | ({eos_id} if eos_id is not None else set())
    return Vocabulary(
        tokens=tokens.texts,
        encoder=_encoder(path, file, cutting, tokens, _BUILDERS[kind](path, model, tokens)),
        spelling=spelling,
        kinds=tokens.kinds,
        bos_id=bos_id,
        eos_ids=ends,
        frame=read_frame(path, file.post_processor, settings, tokens.ids),
        leading_blank=leading_blank,
        begins_after=tokens.kinds.added if cutting.begins_again else frozenset(),
        takes_left=frozenset(tokens.ids[token.content] for token in added if token.lstrip),
        takes_right=frozenset(tokens.ids[token.content] for token in added if token.rstrip),
        max_length=settings.max_length,
    )


def read_parts(path: Path) -> tuple[File, Model, str]:
    """The file, its model and the model's kind."""
    file = parse(read_bytes(path, MAX_BYTES), File, path)
    model = parse(file.model, Model, path, "model")
    return file, model, model.type or _guess_kind(model)


def _encoder(path: Path, file: File, cutting: Cutting, tokens: _Tokens, model: Any) -> Encoder:
    return Encoder(
        model,
        head=cutting.head,
        rest=cutting.rest,
        normalize=read_normalizer(path, file.normalizer, closed=bool(tokens.scores)),
        border=cutting.border(tokens.texts),
        window=cutting.window,
    )


def _guess_kind(model: Model) -> str:
    """Old files do not say."""
    if bytes(model.merges):
        return "BPE"
    if bytes(model.vocab).startswith(b"["):
        return "Unigram"
    return "WordPiece" if model.continuing_subword_prefix else "WordLevel"


def _read_vocabulary(path: Path, kind: str, model: Model) -> tuple[list[str], list[float]]:
    """Tokens by id, "" where there is none; and their scores, of unigram models only."""
    if bytes(model.vocab).count(b'"') > 8 * MAX_TOKENS:  # before anything is built from it
        raise bad(path, "model.vocab", f"has more tokens than {MAX_TOKENS}, the limit")
    if kind == "Unigram":
        pairs = parse(model.vocab, list[tuple[str, float]], path, "model.vocab")
        texts, scores = [text for text, _ in pairs], [score for _, score in pairs]
        if len(set(texts)) < len(texts) or not all(score - score == 0 for score in scores):
            raise bad(path, "model.vocab", "holds a token twice, or a score that is not finite")
    else:
        ids = parse(model.vocab, dict[str, int], path, "model.vocab")
        top = max(ids.values(), default=-1)
        if ids and not 0 <= min(ids.values()) <= top < MAX_TOKENS:
            raise bad(path, "model.vocab", f"holds an id outside of 0 to {MAX_TOKENS - 1}")
        texts, scores = [""] * (top + 1), []
        for text, token_id in ids.items():
            texts[token_id] = text
        if len(ids) != len(texts) - texts.count("") + ("" in ids):
            raise bad(path, "model.vocab", "gives one id to two tokens")
    if not texts or len(texts) > MAX_TOKENS:
        raise bad(path, "model.vocab", f"has {len(texts)} tokens, the limit is {MAX_TOKENS}")
    longest = max(map(len, texts))
    if longest > MAX_TOKEN_CHARS:
        raise bad(
            path, "model.vocab", f"a token has {longest} characters, the limit is {MAX_TOKEN_CHARS}"
        )
    return texts, scores


def _with_added(
    path: Path, texts: list[str], scores: list[float], listed: list[Added], settings: Settings
) -> tuple[_Tokens, list[Added], frozenset[int]]:
    """All tokens, the added ones of them, and those that end an answer by their name."""
    ids = {text: token_id for token_id, text in enumerate(texts) if text}
    known = {token.content for token in listed}
    added = [*listed, *(token for token in settings.added if token.content not in known)]
    for token in added:
        _place(path, token, texts, ids)
    if any(token.single_word for token in added):
        raise unsupported(path, "added_tokens", "single_word")
    named = {*settings.named.values(), *settings.extra}
    control = {ids[token.content] for token in added if token.special or token.content in named} | {
        ids[text] for text in named if text in ids and is_mark(text)
    }
    user_defined = {ids[token.content] for token in added} - control
    found = find_ends(ids, frozenset(control | user_defined))
    kinds = sort_kinds(control, user_defined, texts, found)
    return _Tokens(path, texts, ids, kinds, scores), added, found


def _place(path: Path, token: Added, texts: list[str], ids: dict[str, int]) -> None:
    """Give an added token its id, in place."""
    name = shown(token.content)
    if not token.content or len(token.content) > MAX_TOKEN_CHARS:
        raise bad(path, "added_tokens", f"{name} has {len(token.content)} characters")
    if token.content in ids:
        return
    if not 0 <= token.id < MAX_TOKENS:
        raise bad(path, "added_tokens", f"{name} has id {token.id}, the limit is {MAX_TOKENS - 1}")
    texts.extend([""] * (token.id + 1 - len(texts)))
    if texts[token.id]:
        raise bad(path, "added_tokens", f"{name} has id {token.id}, as {shown(texts[token.id])}")
    texts[token.id] = token.content
    ids[token.content] = token.id


def _byte_pairs(path: Path, model: Model, tokens: _Tokens) -> models.BPE:
    if model.dropout:
        raise unsupported(path, "model.dropout", f"{model.dropout}")
    if not bytes(model.merges):
        raise bad(path, "model.merges", "is missing")
    plain = tokens.plain()
    if model.unk_token is not None:
        plain[model.unk_token] = _unknown(path, model, tokens)
    special = frozenset(tokens.texts[token_id] for token_id in tokens.kinds.special)
    try:
        return byte_pairs(
            plain,
            read_pairs(path, model.merges),
            special,
            unk_token=model.unk_token,
            continuing_subword_prefix=model.continuing_subword_prefix or None,
            end_of_word_suffix=model.end_of_word_suffix or None,
            fuse_unk=model.fuse_unk,
            byte_fallback=model.byte_fallback,
            ignore_merges=model.ignore_merges,
        )
    except ValueError as error:
        raise bad(path, "model.merges", str(error)) from None


def read_pairs(path: Path, merges: msgspec.Raw) -> list[Pair]:
    """Pairs are lists of two, or in older files strings with a blank between."""
    data = bytes(merges)
    if data.count(b'"') > 8 * MAX_MERGES:
        raise bad(path, "model.merges", f"has more merges than {MAX_MERGES}, the limit")
    if data[1:].lstrip()[:1] == b"[":
        pairs: list[Pair] = [*parse(merges, list[tuple[str, str]], path, "model.merges")]
    else:
        lines = parse(merges, list[str], path, "model.merges")
        pairs = [tuple(line.split(" ")) for line in lines]
    if len(pairs) > MAX_MERGES:
        raise bad(path, "model.merges", f"has {len(pairs)} merges, the limit is {MAX_MERGES}")
    return pairs


def _unknown(path: Path, model: Model, tokens: _Tokens) -> int:
    if model.unk_token not in tokens.ids:
        raise bad(path, "model.unk_token", f"{shown(model.unk_token)} is no token")
    return tokens.ids[model.unk_token]


def _word_pieces(path: Path, model: Model, tokens: _Tokens) -> models.WordPiece:
    unknown = _unknown(path, model, tokens)
    if not 0 < model.max_input_chars_per_word <= _MAX_WORD_CHARS:
        raise bad(
            path,
            "model.max_input_chars_per_word",
            f"is {model.max_input_chars_per_word}, the limit is {_MAX_WORD_CHARS}",
        )
    build: Any = models.WordPiece
    built: models.WordPiece = build(
        vocab=tokens.plain() | {tokens.texts[unknown]: unknown},
        unk_token=tokens.texts[unknown],
        max_input_chars_per_word=model.max_input_chars_per_word,
        continuing_subword_prefix=model.continuing_subword_prefix or "##",
    )
    return built


def _whole_words(path: Path, model: Model, tokens: _Tokens) -> models.WordLevel:
    unknown = _unknown(path, model, tokens)
    vocab = tokens.plain() | {tokens.texts[unknown]: unknown}
    return models.WordLevel(vocab=vocab, unk_token=tokens.texts[unknown])


def _likeliest(path: Path, model: Model, tokens: _Tokens) -> models.Unigram:
    count = len(tokens.scores)
    if model.unk_id is None or not 0 <= model.unk_id < count:
        raise bad(path, "model.unk_id", f"is {model.unk_id}, there are {count} tokens")
    return likeliest(
        tokens.texts[:count],
        tokens.scores,
        tokens.kinds.added,
        model.unk_id,
        model.byte_fallback,
    )


_BUILDERS = MappingProxyType(
    {
        "BPE": _byte_pairs,
        "Unigram": _likeliest,
        "WordPiece": _word_pieces,
        "WordLevel": _whole_words,
    }
)
