"""Small vocabularies for tests, in the shape of GGUF metadata."""

from typing import Any

from pagemill.text.tokenizer import Tokenizer
from pagemill.text.vocabulary import byte_alphabet

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "<|im", "€")
_MERGES = ("h e", "l l", "he ll", "hell o", "Ġ hello", "Ġ t", "i m", "a a", "aa aa", "e n", "en d")


def metadata(**changes: Any) -> dict[str, Any]:
    """Six special tokens, the 256 bytes, a few merges. None takes a key away."""
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
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def tokenizer(**changes: Any) -> Tokenizer:
    return Tokenizer.from_gguf(metadata(**changes))
