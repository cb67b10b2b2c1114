"""tekken.json: Mistral's format for byte-level vocabularies that only rank their tokens.

Owns its meaning.
"""

from pathlib import Path

import msgspec

from pagemill.small_files import read_bytes
from pagemill.text import pretokenizers
from pagemill.text.kinds.bpe import byte_level_encoder
from pagemill.text.merges import byte_pairs, pairs_by_rank
from pagemill.text.pretokenizers import PreTokenizer
from pagemill.text.spelling import byte_alphabet, byte_level, to_byte_alphabet
from pagemill.text.vocabulary import (
    MAX_SPECIAL,
    MAX_TOKENS,
    Vocabulary,
    check_tokens,
    find_ends,
    first_duplicate,
    sort_kinds,
)
from pagemill.text.vocabulary_files.files import MAX_BYTES, bad, parse, shown, unsupported
from pagemill.text.vocabulary_files.settings import Settings

# Special tokens of the files that do not list them.
_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)
_ENDS = (("bos", "<s>"), ("eos", "</s>"))


class _Config(msgspec.Struct):
    pattern: str
    default_vocab_size: int
    default_num_special_tokens: int


class _Token(msgspec.Struct):
    rank: int
    token_bytes: bytes  # in base64


class _SpecialToken(msgspec.Struct):
    rank: int
    token_str: str


class _File(msgspec.Struct):
    config: _Config
    vocab: list[_Token]
    special_tokens: list[_SpecialToken] | None = None


def read(path: Path, settings: Settings) -> Vocabulary:
    """Special tokens come first, then those of the list, as many as the vocabulary has room for."""
    file = parse(read_bytes(path, MAX_BYTES), _File, path)
    config = file.config
    special = _special(path, file)
    count = config.default_vocab_size - len(special)
    if not 256 <= count <= len(file.vocab) or config.default_vocab_size > MAX_TOKENS:
        size, listed = config.default_vocab_size, len(file.vocab)
        raise bad(path, "config.default_vocab_size", f"is {size}, {listed} tokens are listed")
    plain = _plain(path, file.vocab[:count])
    ids = {text: rank + len(special) for rank, text in enumerate(plain)}
    model = byte_pairs(
        ids, pairs_by_rank(plain, range(len(plain))), frozenset(), ignore_merges=True
    )
    named = {text: token_id for token_id, text in enumerate(special)}
    bos_id, eos_id = (named.get(settings.named.get(role, name)) for role, name in _ENDS)
    texts = [*special, *plain]
    found = find_ends(named, frozenset(named.values()))
    return Vocabulary(
        tokens=texts,
        encoder=byte_level_encoder(model, _cutting(path, config.pattern)),
        spelling=byte_level,
        kinds=sort_kinds(named.values(), (), texts, found),
        bos_id=bos_id,
        eos_ids=settings.ends(len(texts)).union(found, [] if eos_id is None else [eos_id]),
        frame=settings.frame(bos_id, eos_id, add_bos=True),
        max_length=settings.max_length,
    )


def _special(path: Path, file: _File) -> list[str]:
    """Special tokens by id. Those without a name have one made of their id."""
    count = file.config.default_num_special_tokens
    if not 0 <= count <= MAX_SPECIAL:
        raise bad(
            path, "config.default_num_special_tokens", f"is {count}, the limit is {MAX_SPECIAL}"
        )
    texts = [f"<SPECIAL_{token_id}>" for token_id in range(count)]
    listed = file.special_tokens
    if listed is None:
        texts[: len(_SPECIAL)] = _SPECIAL[:count]
    for token in listed or ():
        if not 0 <= token.rank < count:
            name = shown(token.token_str)
            raise bad(path, "special_tokens", f"{name} has rank {token.rank}, the limit is {count}")
        texts[token.rank] = token.token_str
    if texts and (wrong := check_tokens(texts)):
        raise bad(path, "special_tokens", wrong)
    if len(set(texts)) < len(texts):
        raise bad(path, "special_tokens", first_duplicate(texts))
    return texts


def _plain(path: Path, listed: list[_Token]) -> list[str]:
    """The other tokens in order of rank, in the byte alphabet."""
    for number, token in enumerate(listed):
        if token.rank != number:
            raise bad(path, "vocab", f"item {number} has rank {token.rank}")
    texts = [to_byte_alphabet(token.token_bytes) for token in listed]
    if wrong := check_tokens(texts):
        raise bad(path, "vocab", wrong)
    if len(set(texts)) < len(texts):
        raise bad(path, "vocab", first_duplicate(texts))
    if not byte_alphabet().keys() <= set(texts):
        raise bad(path, "vocab", "not every byte is a token")
    return texts


def _cutting(path: Path, pattern: str) -> PreTokenizer:
    """The row of a known expression, else one of its own."""
    for row in pretokenizers.TABLE.values():
        if row.patterns == (pattern,):
            return row
    raise unsupported(path, "config.pattern", shown(pattern))
