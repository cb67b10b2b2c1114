"""SentencePiece's unigram model, `t5`: of all ways to cut a text the likeliest.

Owns what it makes of the keys tokenizer.ggml.*, and the library's model.
"""

from collections.abc import Sequence

from tokenizers import models

from pagemill.text.charsmap import CharsMap
from pagemill.text.encoder import Encoder, NoTokenAcross
from pagemill.text.gguf_keys import Keys, bad
from pagemill.text.sentences import Sentences
from pagemill.text.spelling import blanks_marked, is_byte
from pagemill.text.vocabulary import Vocabulary

_MAX_CHARSMAP_BYTES = 1 << 22
_UNWRITABLE = "\uffff"  # no character: text never holds one, see Sentences


def read(keys: Keys) -> Vocabulary:
    """Text is normalized as the file says, blanks are marked, and nothing is cut."""
    tokens = keys.token_list(eos=1)
    count = len(tokens.tokens)
    unknown = keys.token_id("unknown_token_id", count, 2)
    if unknown is None:
        raise bad("unknown_token_id", "is missing")
    prefix = keys.value("add_space_prefix", bool, False)
    sentences = Sentences(
        _charsmap(keys),
        prefix=prefix,
        merge_blanks=keys.value("remove_extra_whitespaces", bool, False),
    )
    return Vocabulary(
        tokens=tokens.tokens,
        encoder=Encoder(
            likeliest(tokens.tokens, keys.scores(count), tokens.kinds.added, unknown),
            normalize=sentences.normalize,
            border=NoTokenAcross(tokens.tokens),
        ),
        spelling=blanks_marked,
        kinds=tokens.kinds,
        bos_id=tokens.bos_id,
        eos_ids=tokens.eos_ids,
        frame=keys.frame(tokens, add_bos=False, add_eos=True),
        leading_blank=prefix,
        begins_after=tokens.kinds.added,
    )


def likeliest(
    tokens: Sequence[str],
    scores: Sequence[float],
    hidden: frozenset[int],
    unknown: int,
    byte_fallback: bool = True,
) -> models.Unigram:
    """The library's model. Its list is by id, so `hidden` tokens, which text must not become, stay
    in it under a name that no text holds. Tokens of bytes are used for what is unknown; they score
    worse than any way of writing out their names.
    """
    pieces = list(zip(tokens, scores, strict=True))
    for token_id in hidden | {unknown}:
        pieces[token_id] = (f"{_UNWRITABLE}{token_id}", 0.0)
    in_bytes = [i for i, token in enumerate(tokens) if token.startswith("<0x") and is_byte(token)]
    if byte_fallback and in_bytes:
        floor = min(score for _, score in pieces)
        for token_id in in_bytes:
            pieces[token_id] = (tokens[token_id], 8 * floor - 100)
    return models.Unigram(
        vocab=pieces, unk_id=unknown, byte_fallback=byte_fallback and bool(in_bytes)
    )


def _charsmap(keys: Keys) -> CharsMap | None:
    if not keys.has("precompiled_charsmap"):
        return None
    items = keys.items("precompiled_charsmap", _MAX_CHARSMAP_BYTES)
    try:
        return CharsMap(bytes(item & 0xFF for item in items)) if items else None
    except (TypeError, ValueError) as error:
        raise bad("precompiled_charsmap", str(error)) from None
