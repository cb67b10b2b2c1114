"""SentencePiece's byte-pair encoding, `llama`: tokens are ranked by score, no merges are listed.

Owns what it makes of the keys tokenizer.ggml.*, and the model that score and rank come to.
"""

from collections.abc import Sequence

from tokenizers import models

from pagemill.text.encoder import Encoder, NoTokenAcross
from pagemill.text.gguf_keys import Keys
from pagemill.text.merges import byte_pairs, pairs_by_rank
from pagemill.text.sentences import Sentences
from pagemill.text.spelling import blanks_marked, is_byte
from pagemill.text.vocabulary import Vocabulary


def read(keys: Keys) -> Vocabulary:
    """Blanks are marked and nothing is cut; characters that are no token are spelled in bytes."""
    tokens = keys.token_list(bos=1, eos=2)
    count = len(tokens.tokens)
    unknown = keys.token_id("unknown_token_id", count, 0)
    kinds = tokens.kinds
    model = ranked_pairs(tokens.tokens, keys.scores(count), kinds.special, kinds.words, unknown)
    prefix = keys.value("add_space_prefix", bool, True)
    return Vocabulary(
        tokens=tokens.tokens,
        encoder=Encoder(
            model, normalize=Sentences(prefix=prefix).normalize, border=NoTokenAcross(tokens.tokens)
        ),
        spelling=blanks_marked,
        kinds=tokens.kinds,
        bos_id=tokens.bos_id,
        eos_ids=tokens.eos_ids,
        frame=keys.frame(tokens, add_bos=True),
        leading_blank=prefix,
        begins_after=tokens.kinds.added,
        takes_right=keys.blank_takers(tokens),
    )


def ranked_pairs(
    tokens: Sequence[str],
    scores: Sequence[float],
    special: frozenset[int],
    apart: frozenset[int],
    unknown: int | None,
) -> models.BPE:
    """Of two neighbours, those join first whose joint token has the higher score. Text becomes no
    `special` token; those `apart` are found by others, and nothing joins to them.
    """
    plain = {text: i for i, text in enumerate(tokens) if i not in special}
    joined = {text: i for text, i in plain.items() if i not in apart and not is_byte(text)}
    in_order = sorted(joined, key=lambda text: -scores[joined[text]])  # equal scores: by id
    if unknown is not None:
        plain[tokens[unknown]] = unknown
    return byte_pairs(
        plain,
        pairs_by_rank(in_order, [joined[text] for text in in_order]),
        frozenset(),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=None if unknown is None else tokens[unknown],
    )
