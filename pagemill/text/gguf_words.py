"""All that a GGUF file says of a model's text: its tokenizer, chat template, defaults of sampling.

Owns which key says what, and the test that the file's tokenizer is the folder's: both are built
and read the same texts. It must not know how a GGUF file is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pagemill.errors import BadModelFile, Unsupported
from pagemill.small_files import read_json
from pagemill.text.defaults import GENERATION_CONFIG, GGUF_KEYS, defaults_of_folder
from pagemill.text.gguf_keys import END_KEYS
from pagemill.text.gguf_vocabulary import UNUSED, Listed, list_vocabulary
from pagemill.text.kinds import read_vocabulary
from pagemill.text.templates import template_of_folder
from pagemill.text.tokenizer import Tokenizer
from pagemill.text.vocabulary import Vocabulary
from pagemill.text.vocabulary_files import read_folder
from pagemill.text.vocabulary_files.settings import Settings, read_settings
from pagemill.types import WHOLE_KNOBS

_TOKENIZER = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_PADDING_SCORE = -10000.0
# Roles of tokens, as GGUF spells them.
_ROLES = MappingProxyType(
    {
        **{"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator"},
        **{"pad": "padding", "cls": "cls", "mask": "mask"},
    }
)
# What two tokenizers must agree on: letters, digits, signs, blanks, code, scripts, emoji.
_SAMPLES = (
    "Hello, world! It's 12345.67 o'clock; we'll see: 3rd try, 50% off (a+b)=c^2, e-mail a_b@c.org.",
    "  two blanks,\ttabs\n\nand\r\nlines   \n    indented = {'k': [1, 2]}  # end ",
    "DON'T STOP I'LL camelCase snake_case ALLCAPS x86_64 v1.2.3 0x1F 1e-9 1234567890",
    "Größe, naïve café, Ελληνικά, русский язык, עברית, العربية, हिन्दी, ไทย",
    "日本語のテキスト、中文字符。한국어 문장 ①②③ ½ ² ٣٤",
    "emoji \U0001f600\U0001f1e9\U0001f1ea \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "≤ ∑ → … “quotes” ‘n’ — done",
    "def f(x):\n\treturn x**2 if x >= 0 else -x  // <b>html</b> & \\n http://a.b/c?d=e#f",
)


@dataclass(frozen=True, slots=True)
class Word:
    """One key of the metadata; `kind` is GGUF's word for its type, "[string]" for an array."""

    key: str
    kind: str
    content: Any


@dataclass(frozen=True, slots=True)
class GGUFWords:
    """`notes` are for people: what of the folder GGUF cannot say."""

    words: tuple[Word, ...]
    notes: tuple[str, ...]


def gguf_words(folder: Path, num_tokens: int) -> GGUFWords:
    """The keys for a model whose embedding has `num_tokens` rows.

    BadModelFile for nonsense; Unsupported names the kind of tokenizer that GGUF has no word for,
    or the text that its nearest one reads in another way.
    """
    settings, vocabulary = read_settings(folder), read_folder(folder)
    count = len(vocabulary.tokens)
    if count > num_tokens:
        raise BadModelFile(
            f"{folder.name}: the tokenizer has {count} tokens, the embedding {num_tokens} rows"
        )
    listed = list_vocabulary(folder, settings, vocabulary)
    words = [
        *_tokens(listed, num_tokens),
        *_roles(folder, settings, vocabulary, listed),
        *_frame(folder, vocabulary, listed),
    ]
    words += _other_ends(vocabulary, words)
    written = read_vocabulary(_metadata(words))
    changed = _compare(folder, Tokenizer(vocabulary), Tokenizer(written))
    words += [*_template(folder), *_defaults(folder, num_tokens)]
    notes = (*listed.notes, *changed, *_left_out(folder, vocabulary, written, listed))
    return GGUFWords(tuple(words), notes)


def _metadata(words: Sequence[Word]) -> Mapping[str, Any]:
    return {word.key: word.content for word in words}


def _tokens(listed: Listed, num_tokens: int) -> Iterator[Word]:
    """The vocabulary. Ids without a token get a name that no text has."""
    count = len(listed.tokens)
    missing = num_tokens - count
    tokens = [text or f"[PAD{i}]" for i, text in enumerate(listed.tokens)]
    tokens += [f"[PAD{i}]" for i in range(count, num_tokens)]
    yield Word(f"{_TOKENIZER}model", "string", listed.model)
    yield Word(f"{_TOKENIZER}pre", "string", listed.pre)
    yield Word(f"{_TOKENIZER}tokens", "[string]", tokens)
    types = [*listed.types, *[UNUSED] * missing]
    yield Word(f"{_TOKENIZER}token_type", "[int32]", types)
    if listed.scores:
        scores = [*listed.scores, *[_PADDING_SCORE] * missing]
        yield Word(f"{_TOKENIZER}scores", "[float32]", scores)
    if listed.model == "gpt2":
        yield Word(f"{_TOKENIZER}merges", "[string]", listed.merges)
    for key, flag in listed.flags.items():
        yield Word(f"{_TOKENIZER}{key}", "bool", flag)


def _roles(
    folder: Path, settings: Settings, vocabulary: Vocabulary, listed: Listed
) -> Iterator[Word]:
    """Ids of tokens that have a role: as the tokenizer's files name them, else as config.json."""
    ids = {text: token_id for token_id, text in enumerate(vocabulary.tokens) if text}
    config = read_json(folder / "config.json")
    found: dict[str, int] = {}
    for role in _ROLES:
        token_id = settings.id_of(role, ids)
        if token_id is None:
            token_id = config.get(f"{role}_token_id")
        if type(token_id) is int and 0 <= token_id < len(vocabulary.tokens):
            found[role] = token_id
    before, after = vocabulary.frame.before.ids, vocabulary.frame.after.ids
    if vocabulary.bos_id is not None:
        found["bos"] = vocabulary.bos_id
    if listed.unknown in ids:
        found["unk"] = ids[listed.unknown]
    if listed.eos_id is not None:
        found.setdefault("eos", listed.eos_id)
    first, last = ("cls", "sep") if listed.model == "bert" else ("bos", "eos")
    for role, around in ((first, before), (last, after)):
        if len(around) == 1:
            found.setdefault(role, around[0])
    if listed.model == "bert":  # whose readers look for the first and the last token there
        for role, other in (("bos", "cls"), ("eos", "sep")):
            if other in found:
                found.setdefault(role, found[other])
    for role, token_id in found.items():
        yield Word(f"{_TOKENIZER}{_ROLES[role]}_token_id", "uint32", token_id)


def _frame(folder: Path, vocabulary: Vocabulary, listed: Listed) -> Iterator[Word]:
    """Whether prompts begin and end with tokens of their own."""
    if listed.model == "bert":
        return  # they always do
    frame = vocabulary.frame
    if max(len(frame.before.ids), len(frame.after.ids)) > 1:
        raise Unsupported(
            f"{folder.name}: the tokenizer puts tokens {frame.before.ids} before and "
            f"{frame.after.ids} after texts, which GGUF cannot say"
        )
    yield Word(f"{_TOKENIZER}add_bos_token", "bool", bool(frame.before.ids))
    yield Word(f"{_TOKENIZER}add_eos_token", "bool", bool(frame.after.ids))
    if frame.after.ids:
        yield Word(f"{_TOKENIZER}add_sep_token", "bool", len(frame.pair[1].ids) > 1)


def _other_ends(vocabulary: Vocabulary, words: Sequence[Word]) -> list[Word]:
    """Tokens that end answers and that readers would not find by their names."""
    metadata = _metadata(words)
    missing = sorted(vocabulary.eos_ids - read_vocabulary(metadata).eos_ids)
    free = [key for key in END_KEYS if f"{_TOKENIZER}{key}" not in metadata]
    pairs = zip(free, missing, strict=False)
    return [Word(f"{_TOKENIZER}{key}", "uint32", token_id) for key, token_id in pairs]


def _compare(folder: Path, own: Tokenizer, written: Tokenizer) -> tuple[str, ...]:
    """Unsupported: a text has other ids in the new file. What is told is the one difference that
    every GGUF file of such tokenizers has."""
    notes: tuple[str, ...] = ()
    for text in (*_SAMPLES, ""):
        if own.encode_prompt(text) == written.encode_prompt(text):
            continue
        inner = text.lstrip()
        if inner == text or own.encode_prompt(inner) != written.encode_prompt(inner):
            raise Unsupported(
                f"{folder.name}: the tokenizer cannot be written as GGUF: as such it would read "
                f"{text[:40]!a} in another way"
            )
        notes = ("texts that begin with a blank get one more in GGUF's way",)
    return notes


def _left_out(
    folder: Path, vocabulary: Vocabulary, written: Vocabulary, listed: Listed
) -> Iterator[str]:
    if vocabulary.takes_left | vocabulary.takes_right:
        yield "some special tokens take the blanks beside them, which GGUF cannot say"
    if listed.model == "llama" and vocabulary.begins_after != written.begins_after:
        yield "after some added tokens GGUF's kind puts a blank before the text, the folder's none"
    if missing := vocabulary.eos_ids - written.eos_ids:
        yield f"tokens {sorted(missing)} end answers too, for which GGUF has no key left"
    if defaults_of_folder(folder, len(vocabulary.tokens)).max_tokens is not None:
        yield f"max_new_tokens of {GENERATION_CONFIG} has no key in GGUF"


def _template(folder: Path) -> Iterator[Word]:
    source = template_of_folder(folder)
    if source is None:
        return
    yield Word(_TEMPLATE, "string", source.text)
    if source.tool_use:
        yield Word(f"{_TEMPLATE}.tool_use", "string", source.tool_use)
        yield Word(f"{_TEMPLATE}s", "[string]", ["tool_use"])


def _defaults(folder: Path, num_tokens: int) -> Iterator[Word]:
    defaults = defaults_of_folder(folder, num_tokens)
    for name, key in GGUF_KEYS.items():
        value = getattr(defaults, name)
        if value is not None:
            yield Word(key, "int32" if name in WHOLE_KNOBS else "float32", value)
