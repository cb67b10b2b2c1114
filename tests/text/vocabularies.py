"""Small vocabularies for tests, in the shape of GGUF metadata."""

from typing import Any

from pagemill.text.spelling import byte_alphabet
from pagemill.text.tokenizer import Tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "<|im", "€")
_MERGES = ("h e", "l l", "he ll", "hell o", "Ġ hello", "Ġ t", "i m", "a a", "aa aa", "e n", "en d")


def _keys(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """None takes a key away."""
    merged = {**values, **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in merged.items() if value is not None}


def metadata(**changes: Any) -> dict[str, Any]:
    """Byte-level: six special tokens, the 256 bytes, a few merges."""
    made = ["".join(pair.split(" ")) for pair in _MERGES]
    kinds = [3, 3, 3, 4, 3, 3]
    tokens = [*SPECIAL, *byte_alphabet(), *made]
    values = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": kinds + [1] * (len(tokens) - len(kinds)),
        "merges": list(_MERGES),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return _keys(values, changes)


def tokenizer(**changes: Any) -> Tokenizer:
    return Tokenizer.from_gguf(metadata(**changes))


_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_PIECES = (
    *("▁t", "he", "▁a", "in", "▁the", "▁h", "ll", "▁he", "llo", "▁hello", "ing", "▁▁", "▁▁▁▁"),
    *("▁", "e", "t", "a", "o", "i", "n", "h", "l", "g", "<", ">", "/", "s", "é", "你"),
)


def spm(**changes: Any) -> dict[str, Any]:
    """SentencePiece's byte-pair encoding: ranked by score, with bytes, `<think>` and a tab."""
    head = ["<unk>", "<s>", "</s>", "<think>", "\t\t"]
    values = {
        "model": "llama",
        "tokens": [*head, *_BYTES, *_PIECES],
        "scores": [0.0] * (len(head) + len(_BYTES)) + [-float(n) for n in range(len(_PIECES))],
        "token_type": [2, 3, 3, 4, 4] + [6] * len(_BYTES) + [1] * len(_PIECES),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return _keys(values, changes)


def unigram(**changes: Any) -> dict[str, Any]:
    """SentencePiece's unigram model, no bytes; the unused token is no special one."""
    head = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    values = {
        "model": "t5",
        "tokens": [*head, *_PIECES, "unused"],
        "scores": [0.0] * len(head) + [-2.0 - n / 8 for n in range(len(_PIECES) + 1)],
        "token_type": [3, 3, 3, 2, 4] + [1] * len(_PIECES) + [5],
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "unknown_token_id": 3,
        "seperator_token_id": 2,
        "add_bos_token": True,
        "add_eos_token": True,
    }
    return _keys(values, changes)


def wordpiece(**changes: Any) -> dict[str, Any]:
    """WordPiece: words' beginnings are marked."""
    head = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = ["▁hello", "▁the", "ing", "▁h", "er", "el", "▁,", "▁.", "▁you", "▁你", "r", "▁a", "s"]
    values = {
        "model": "bert",
        "pre": "bert-bge",
        "tokens": [*head, *pieces],
        "token_type": [3] * len(head) + [1] * len(pieces),
        "unknown_token_id": 1,
        "cls_token_id": 2,
        "seperator_token_id": 3,
        "padding_token_id": 0,
        "mask_token_id": 4,
    }
    return _keys(values, changes)
