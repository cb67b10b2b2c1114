"""Folders of an architecture that Pagemill has no network for. Only headers and settings are true:
nothing of the weights is ever computed with."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.weights.safetensors_writer import write_folder

STABLELM: dict[str, Any] = {
    "architectures": ["StableLmForCausalLM"],
    "model_type": "stablelm",
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
TENSORS: dict[str, NDArray[Any]] = {
    "model.embed_tokens.weight": np.zeros((20, 16), np.float16),
    "model.norm.weight": np.zeros(16, np.float32),
}


def stablelm(folder: Path, **changes: Any) -> Path:
    """A folder with some settings changed; None removes one."""
    config = {key: value for key, value in {**STABLELM, **changes}.items() if value is not None}
    return write_folder(folder, TENSORS, config)
