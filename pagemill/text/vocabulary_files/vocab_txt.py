"""vocab.txt: BERT's own format, a WordPiece vocabulary with a token on each line.

Owns its meaning, and which settings of tokenizer_config.json belong to it.
"""

from functools import partial
from pathlib import Path

import msgspec
from tokenizers import normalizers

from pagemill.small_files import read_json, read_text
from pagemill.text import spelling
from pagemill.text.kinds.wordpiece import sentence_pair, word_encoder
from pagemill.text.vocabulary import (
    MAX_TOKENS,
    Vocabulary,
    check_tokens,
    find_ends,
    first_duplicate,
    is_mark,
    sort_kinds,
)
from pagemill.text.vocabulary_files.files import MAX_BYTES, bad, convert
from pagemill.text.vocabulary_files.settings import Settings

_UNKNOWN, _CLS, _SEP = "[UNK]", "[CLS]", "[SEP]"
_SPECIAL = (_UNKNOWN, _CLS, _SEP, "[PAD]", "[MASK]")


class _Config(msgspec.Struct):
    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True


def read(path: Path, settings: Settings) -> Vocabulary:
    """Words as the library's BertNormalizer and BertPreTokenizer make them."""
    tokens = read_text(path, MAX_BYTES).removesuffix("\n").split("\n")
    if len(tokens) > MAX_TOKENS:
        raise bad(path, "", f"has {len(tokens)} lines, the limit is {MAX_TOKENS}")
    if wrong := check_tokens(tokens):
        raise bad(path, "", wrong)
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        raise bad(path, "", first_duplicate(tokens))
    unknown, cls, sep = (
        settings.named.get(role, name)
        for role, name in (("unk", _UNKNOWN), ("cls", _CLS), ("sep", _SEP))
    )
    if unknown not in ids:
        raise bad(path, "", f"{ascii(unknown)[:64]}, the unknown token, is not there")
    named = {text for text in settings.named.values() if is_mark(text)}
    control = [ids[text] for text in named.union(_SPECIAL) if text in ids]
    kinds = sort_kinds(control, (), tokens, find_ends(ids, frozenset(control)))
    plain = {text: i for text, i in ids.items() if i not in kinds.special}
    return Vocabulary(
        tokens=tokens,
        encoder=word_encoder(plain, (unknown, ids[unknown]), _normalizer(settings)),
        spelling=partial(spelling.word_rests_marked, prefix="##"),
        kinds=kinds,
        eos_ids=settings.ends(len(tokens)),
        frame=sentence_pair(ids.get(cls), ids.get(sep)),
        leading_blank=True,
        max_length=settings.max_length,
    )


def _normalizer(settings: Settings) -> normalizers.Normalizer:
    path = settings.path / "tokenizer_config.json"
    config = convert(read_json(path), _Config, path) if path.is_file() else _Config()
    return normalizers.BertNormalizer(
        lowercase=config.do_lower_case,
        strip_accents=config.strip_accents,
        handle_chinese_chars=config.tokenize_chinese_chars,
    )
