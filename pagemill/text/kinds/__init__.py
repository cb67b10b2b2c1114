"""One module for each kind of vocabulary in model files.

Owns the list of kinds by the name that tokenizer.ggml.model gives them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pagemill.errors import Unsupported
from pagemill.text.gguf_keys import Keys
from pagemill.text.kinds import bpe, spm, unigram, wordpiece
from pagemill.text.vocabulary import Vocabulary

KINDS: Mapping[str, Callable[[Keys], Vocabulary]] = MappingProxyType(
    {
        "gpt2": bpe.read,
        "llama": spm.read,
        "bert": wordpiece.read,
        "t5": unigram.read,
        "gemma4": bpe.read_over_characters,
    }
)


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Check and collect tokenizer.ggml.*. BadModelFile names the key; Unsupported what exists."""
    keys = Keys(metadata)
    model = keys.value("model", str, None)
    if model not in KINDS:
        raise Unsupported(
            f"tokenizer model {ascii(model)[:64]} is not supported; supported: {', '.join(KINDS)}"
        )
    return KINDS[model](keys)
