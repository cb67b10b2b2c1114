"""A folder's vocabulary as tokenizer.ggml.* lists it: tokens, their types, scores or merges.

One function for each kind of file that GGUF has a kind for; what it has none for is refused by
name. It must not know special tokens' roles, templates or how a GGUF file is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from pagemill.small_files import read_json
from pagemill.text import pretokenizers
from pagemill.text.gguf_keys import BYTE, CONTROL, UNKNOWN, USER_DEFINED
from pagemill.text.merges import Pair
from pagemill.text.spelling import BLANK, is_byte
from pagemill.text.vocabulary import Vocabulary
from pagemill.text.vocabulary_files import sentencepiece, tokenizer_json
from pagemill.text.vocabulary_files.files import bad, convert, shown, unsupported
from pagemill.text.vocabulary_files.parts import steps_of
from pagemill.text.vocabulary_files.settings import Settings

NORMAL, UNUSED = 1, 5
_REST = "##"  # how WordPiece files begin what is not the first piece of a word
_UNREACHED = -1e6  # the score of a token that no merge makes


@dataclass(frozen=True, slots=True)
class Listed:
    """`model` and `pre` are GGUF's names. `flags` are further keys of tokenizer.ggml.* that say
    yes or no; `notes` are for people: what GGUF cannot say."""

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()
    merges: Sequence[str] = ()
    flags: dict[str, bool] = field(default_factory=dict)
    unknown: str | None = None  # the token for what no other is for
    eos_id: int | None = None  # where the vocabulary's own file has one
    notes: tuple[str, ...] = ()


def list_vocabulary(folder: Path, settings: Settings, vocabulary: Vocabulary) -> Listed:
    """`vocabulary` is what the folder's own reader made of it. Unsupported names what GGUF has no
    kind for."""
    if (path := folder / "tokenizer.model").is_file():
        return _sentencepiece(path, settings, vocabulary)
    if (path := folder / "tokenizer.json").is_file():
        file, model, kind = tokenizer_json.read_parts(path)
        if kind == "BPE":
            over_characters = model.byte_fallback
            write = _characters if over_characters else _byte_level
            return write(path, file, model, vocabulary)
        if kind == "WordPiece":
            return _word_pieces(path, file, model, vocabulary)
        raise unsupported(path, "model", f"{shown(kind)} cannot be written as GGUF")
    if (path := folder / "vocab.txt").is_file():
        return _vocab_txt(path, vocabulary)
    for name in ("spiece.model", "tekken.json"):
        if (folder / name).is_file():
            raise unsupported(folder / name, "", "this kind cannot be written as GGUF")
    raise bad(folder, "", "there is no tokenizer")


def _types(vocabulary: Vocabulary) -> list[int]:
    types = [NORMAL] * len(vocabulary.tokens)
    for kind, ids in (
        (CONTROL, vocabulary.kinds.control),
        (USER_DEFINED, vocabulary.kinds.marks | vocabulary.kinds.words),
        (UNUSED, [i for i, text in enumerate(vocabulary.tokens) if not text]),
    ):
        for token_id in ids:
            types[token_id] = kind
    return types


def _byte_level(
    path: Path, file: tokenizer_json.File, model: tokenizer_json.Model, vocabulary: Vocabulary
) -> Listed:
    normalizers = list(steps_of(path, "normalizer", file.normalizer, "normalizers"))
    kinds = [step["type"] for step in normalizers]
    if kinds not in ([], ["NFC"]):
        raise unsupported(path, "normalizer", f"{shown(kinds)} cannot be written as GGUF")
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        raise unsupported(path, "model", "affixes of words cannot be written as GGUF")
    return Listed(
        "gpt2",
        _pre_tokenizer(path, file, model.ignore_merges),
        vocabulary.tokens,
        _types(vocabulary),
        merges=[" ".join(pair) for pair in tokenizer_json.read_pairs(path, model.merges)],
        unknown=model.unk_token,
        notes=("texts are not normalized (NFC), as GGUF has no word for it",) if kinds else (),
    )


def _pre_tokenizer(path: Path, file: tokenizer_json.File, ignore_merges: bool) -> str:
    """GGUF's name for this way to cut."""
    steps = list(steps_of(path, "pre_tokenizer", file.pre_tokenizer, "pretokenizers"))
    patterns = tuple(pattern for step in steps for pattern in _patterns(path, step))
    for name, row in pretokenizers.TABLE.items():
        if (row.patterns, row.ignore_merges) == (patterns, ignore_merges) and patterns:
            return name
    what = [step.get("pattern", step["type"]) for step in steps]
    raise unsupported(path, "pre_tokenizer", f"{shown(what)} has no name in GGUF")


def _patterns(path: Path, step: dict[str, Any]) -> Iterator[str]:
    """The expressions that a step comes to."""
    kind, pattern = step["type"], step.get("pattern")
    if kind == "ByteLevel" and not step.get("add_prefix_space", True):
        if step.get("use_regex", True):
            yield from pretokenizers.TABLE["gpt-2"].patterns
    elif kind == "Digits":
        yield r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    elif kind == "Split" and isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
        if (step.get("behavior"), bool(step.get("invert"))) not in _ISOLATED:
            raise unsupported(path, "pre_tokenizer", f"{shown(step)} has no name in GGUF")
        yield pretokenizers.SAME.get(pattern["Regex"], pattern["Regex"])
    else:
        raise unsupported(path, "pre_tokenizer", f"{shown(step)} has no name in GGUF")


_ISOLATED = (("Isolated", False), ("Removed", True))  # one, where an expression matches all


def _characters(
    path: Path, file: tokenizer_json.File, model: tokenizer_json.Model, vocabulary: Vocabulary
) -> Listed:
    """SentencePiece's byte pairs as the library has them: what GGUF ranks by score is a list of
    merges here, which must have the same order."""
    prefix = _marks_blanks(path, file)
    scores = _ranked(path, tokenizer_json.read_pairs(path, model.merges), vocabulary.tokens)
    types = _with_bytes(_types(vocabulary), vocabulary.tokens, model.unk_token)
    flags = {"add_space_prefix": prefix}
    unknown = model.unk_token
    tokens = _as_typed(vocabulary.tokens, types)
    return Listed("llama", "default", tokens, types, scores, flags=flags, unknown=unknown)


def _as_typed(tokens: Sequence[str], types: Sequence[int]) -> list[str]:
    """Tokens that are found in a text before its blanks are marked, have none of the marks."""
    pairs = zip(tokens, types, strict=True)
    return [text.replace(BLANK, " ") if kind == USER_DEFINED else text for text, kind in pairs]


def _with_bytes(types: list[int], tokens: Sequence[str], unknown: str | None) -> list[int]:
    for token_id, text in enumerate(tokens):
        if types[token_id] == NORMAL and is_byte(text):
            types[token_id] = BYTE
        elif text and text == unknown:
            types[token_id] = UNKNOWN
    return types


def _marks_blanks(path: Path, file: tokenizer_json.File) -> bool:
    """Whether a text begins with a blank that was not in it. Unsupported: more is done to it."""
    prefix = marks = False
    for step in steps_of(path, "normalizer", file.normalizer, "normalizers"):
        if step["type"] == "Prepend" and step.get("prepend") == BLANK:
            prefix = True
        elif step["type"] == "Replace" and step.get("pattern") == {"String": " "}:
            marks = step.get("content") == BLANK
        else:
            raise unsupported(path, "normalizer", f"{shown(step)} cannot be written as GGUF")
    for step in steps_of(path, "pre_tokenizer", file.pre_tokenizer, "pretokenizers"):
        if step["type"] == "Metaspace" and not step.get("split", True):
            marks = step.get("replacement") == BLANK
            prefix = step.get("prepend_scheme", "always") != "never"
        elif step["type"] != "Split" or step.get("pattern") != {"String": " "}:
            raise unsupported(path, "pre_tokenizer", f"{shown(step)} cannot be written as GGUF")
    if not marks:
        raise unsupported(path, "normalizer", f"none that writes blanks as {BLANK!a}")
    return prefix


def _ranked(path: Path, merges: Sequence[Pair], tokens: Sequence[str]) -> list[float]:
    """A score for each token: the earlier it is merged, the higher."""
    ranks: dict[str, int] = {}
    last = ""
    for left, right in merges:
        text = left + right
        if text != last and ranks.setdefault(text, len(ranks)) != len(ranks) - 1:
            raise unsupported(path, "model.merges", f"{shown(text)} is merged at several ranks")
        last = text
    return [0.0 if len(t) < 2 or is_byte(t) else -float(ranks.get(t, -_UNREACHED)) for t in tokens]


def _sentencepiece(path: Path, settings: Settings, vocabulary: Vocabulary) -> Listed:
    """The file's own pieces and scores; special tokens as the folder's tokenizer has them."""
    file = sentencepiece.read_model(path, settings)
    if not file.is_bpe:
        raise unsupported(path, "trainer_spec.model_type", "unigram cannot be written as GGUF")
    if file.charsmap or file.merge_blanks or file.suffix:
        raise unsupported(path, "normalizer_spec", "it changes texts, which GGUF's kind does not")
    pieces, tokens = file.pieces, vocabulary.tokens
    more = len(tokens) - len(pieces.texts)
    types = [*pieces.types, *[NORMAL] * more][: len(tokens)]
    for token_id, kind in enumerate(_types(vocabulary)):
        if kind != NORMAL and types[token_id] != UNKNOWN:
            types[token_id] = kind
    scores = [*pieces.scores, *[0.0] * more][: len(tokens)]
    flags = {"add_space_prefix": file.prefix}
    unknown = next((tokens[i] for i, kind in enumerate(types) if kind == UNKNOWN), None)
    return Listed(
        "llama",
        "default",
        _as_typed(tokens, types),
        types,
        scores,
        flags=flags,
        unknown=unknown,
        eos_id=file.ends[1],
    )


def _word_pieces(
    path: Path, file: tokenizer_json.File, model: tokenizer_json.Model, vocabulary: Vocabulary
) -> Listed:
    steps = list(steps_of(path, "pre_tokenizer", file.pre_tokenizer, "pretokenizers"))
    if [step["type"] for step in steps] != ["BertPreTokenizer"]:
        raise unsupported(path, "pre_tokenizer", f"{shown(steps)} cannot be written as GGUF")
    if (model.continuing_subword_prefix or _REST) != _REST:
        raise unsupported(path, "model", f"pieces begin with {model.continuing_subword_prefix!a}")
    normalizers = list(steps_of(path, "normalizer", file.normalizer, "normalizers"))
    if [step["type"] for step in normalizers] != ["BertNormalizer"]:
        raise unsupported(path, "normalizer", f"{shown(normalizers)} cannot be written as GGUF")
    normalizer = convert(normalizers[0], _Normalizer, path, "normalizer")
    return _words(path, normalizer, vocabulary, model.unk_token)


def _vocab_txt(path: Path, vocabulary: Vocabulary) -> Listed:
    config = path.with_name("tokenizer_config.json")
    given = read_json(config) if config.is_file() else {}
    renamed = {_IN_CONFIG.get(key, key): value for key, value in given.items()}
    return _words(path, convert(renamed, _Normalizer, config), vocabulary, None)


class _Normalizer(msgspec.Struct):
    """BertNormalizer of tokenizer.json."""

    clean_text: bool = True
    handle_chinese_chars: bool = True
    strip_accents: bool | None = None
    lowercase: bool = True


_IN_CONFIG = MappingProxyType(
    {"do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars"}
)


def _words(
    path: Path, normalizer: _Normalizer, vocabulary: Vocabulary, unknown: str | None
) -> Listed:
    """GGUF marks the first piece of a word, where these files mark all but the first."""
    if not (normalizer.clean_text and normalizer.handle_chinese_chars):
        raise unsupported(path, "normalizer", f"{shown(normalizer)} cannot be written as GGUF")
    types = _types(vocabulary)
    tokens = [
        _marked(text) if kind == NORMAL else text
        for text, kind in zip(vocabulary.tokens, types, strict=True)
    ]
    lower, strip = normalizer.lowercase, normalizer.strip_accents
    flags = {"normalizer.lowercase": lower}
    if strip is not None:
        flags["normalizer.strip_accents"] = strip
    return Listed("bert", "default", tokens, types, flags=flags, unknown=unknown)


def _marked(text: str) -> str:
    return text.removeprefix(_REST) if text.startswith(_REST) and text != _REST else BLANK + text
