"""Byte-pair encoding with a list of merges: `gpt2` over bytes, `gemma4` over characters.

Owns what these two make of the keys tokenizer.ggml.*.
"""

from operator import methodcaller
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from pagemill.text import pretokenizers
from pagemill.text.encoder import Encoder, NoTokenAcross, at_pieces
from pagemill.text.gguf_keys import Keys, TokenList, bad
from pagemill.text.merges import byte_pairs
from pagemill.text.pretokenizers import PreTokenizer
from pagemill.text.spelling import BLANK, blanks_marked, byte_level
from pagemill.text.vocabulary import MAX_MERGES, Vocabulary


def read(keys: Keys) -> Vocabulary:
    """Byte-level: every byte is a character of the vocabulary, and pieces are cut first."""
    tokens = keys.token_list()
    cutting = pretokenizers.get(keys.value("pre", str, "default"))
    model = _model(keys, tokens, ignore_merges=cutting.ignore_merges)
    return Vocabulary(
        tokens=tokens.tokens,
        encoder=byte_level_encoder(model, cutting),
        spelling=byte_level,
        kinds=tokens.kinds,
        bos_id=tokens.bos_id,
        eos_ids=tokens.eos_ids,
        frame=keys.frame(tokens, add_bos=cutting.add_bos),
    )


def read_over_characters(keys: Keys) -> Vocabulary:
    """Like SentencePiece's vocabularies, but merges are listed: blanks are marked, nothing is cut,
    and characters that are no token are spelled in bytes.
    """
    tokens = keys.token_list()
    model = _model(keys, tokens, byte_fallback=True)
    return Vocabulary(
        tokens=tokens.tokens,
        encoder=Encoder(model, normalize=_mark_blanks, border=NoTokenAcross(tokens.tokens)),
        spelling=blanks_marked,
        kinds=tokens.kinds,
        bos_id=tokens.bos_id,
        eos_ids=tokens.eos_ids,
        frame=keys.frame(tokens, add_bos=True),
    )


def byte_level_encoder(model: models.BPE, cutting: PreTokenizer) -> Encoder:
    """Text is cut as `cutting` says, then written in the byte alphabet."""
    splits: list[Any] = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in cutting.patterns
    ]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    sequence = pre_tokenizers.Sequence([*splits, level])
    return Encoder(model, head=sequence, rest=sequence, border=at_pieces(cutting.border))


def _model(keys: Keys, tokens: TokenList, **options: Any) -> models.BPE:
    # Added tokens are left out: plain text that is spelled like one finds no such token.
    added = frozenset(tokens.tokens[token_id] for token_id in tokens.kinds.added)
    lines = keys.strings("merges", MAX_MERGES)
    pairs = list(map(tuple, map(methodcaller("split", " "), lines)))
    try:
        return byte_pairs(tokens.plain_ids(), pairs, added, **options)
    except ValueError as error:
        raise bad("merges", str(error)) from None


def _mark_blanks(text: str, begins: bool) -> str:
    return text.replace(" ", BLANK)
