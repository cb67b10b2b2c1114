"""WordPiece, `bert`: words are cut at blanks and punctuation, and each into its longest pieces.

Owns what it makes of the keys tokenizer.ggml.*, and the encoder.
"""

from tokenizers import models, normalizers, pre_tokenizers

from pagemill.text.encoder import Encoder, at_pieces
from pagemill.text.frames import Frame, part
from pagemill.text.gguf_keys import Keys, bad
from pagemill.text.spelling import BLANK, word_starts_marked
from pagemill.text.vocabulary import Vocabulary

_MAX_WORD_CHARS = 100  # longer words are unknown: so the models were trained


def read(keys: Keys) -> Vocabulary:
    """A word's first token is marked in the file; the library marks all but the first."""
    tokens = keys.token_list(bos=101)
    count = len(tokens.tokens)
    unknown, sep, cls = (
        keys.token_id(f"{name}_token_id", count, default)
        for name, default in (("unknown", 100), ("seperator", 102), ("cls", tokens.bos_id))
    )
    if unknown is None:
        raise bad("unknown_token_id", "is missing")
    added = tokens.kinds.added
    ids = {_piece(text): i for i, text in enumerate(tokens.tokens) if i not in added}
    lower = keys.value("normalizer.lowercase", bool, True)
    strip = keys.value("normalizer.strip_accents", bool, lower)
    normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=strip)
    return Vocabulary(
        tokens=tokens.tokens,
        encoder=word_encoder(ids, (tokens.tokens[unknown], unknown), normalizer),
        spelling=word_starts_marked,
        kinds=tokens.kinds,
        bos_id=tokens.bos_id,
        eos_ids=tokens.eos_ids,
        frame=sentence_pair(cls, sep),
        leading_blank=True,
    )


def word_encoder(
    ids: dict[str, int], unknown: tuple[str, int], normalizer: normalizers.Normalizer
) -> Encoder:
    """Of tokens as the library writes them. `unknown` is what words become that have no pieces."""
    text, token_id = unknown
    words = pre_tokenizers.BertPreTokenizer()

    def normalize(text: str, begins: bool) -> str:
        return normalizer.normalize_str(text)

    return Encoder(
        models.WordPiece(
            vocab=ids | {text: token_id}, unk_token=text, max_input_chars_per_word=_MAX_WORD_CHARS
        ),
        head=words,
        rest=words,
        normalize=normalize,
        border=at_pieces(r"(?<=\S)(?=\s)"),
    )


def sentence_pair(cls: int | None, sep: int | None) -> Frame:
    """BERT's frame: one token before, one after each text, and the second text is of type 1."""
    before, after = part(cls), part(sep)
    return Frame(before, after, (before, after, part(sep, type_id=1)), types=(0, 1))


def _piece(token: str) -> str:
    return token[1:] if token.startswith(BLANK) else f"##{token}"
