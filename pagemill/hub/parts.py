"""Which files of a repository or folder make a model with safetensors: no more than is needed.

Weights in other forms (pickles, ONNX, HDF5) and code are never among them. Works on names, and on
the content of an index of shards; knows no hub and no disk.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from pagemill.hub.checks import checked_path

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 16 << 20
MAX_SHARDS = 2048

_NEEDED = frozenset(
    {
        CONFIG, INDEX, "generation_config.json",
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
        "tekken.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json",
        "chat_template.jinja", "chat_template.json",
        "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
        "quantize_config.json", "quant_config.json", "hf_quant_config.json",
    }
)  # fmt: skip
_LICENCE = re.compile(r"(?:licen[cs]e|notice|copying)(?:[._-][\w.-]*)?", re.IGNORECASE)
# Layers after the network, of sentence-transformers: 1_Pooling, 2_Dense.
_MODULE = re.compile(r"\d{1,2}_[A-Za-z]+/(?:config\.json|model\.safetensors)")
_PICKLE = re.compile(r"\.(?:bin|pt|pth|ckpt|pkl|h5|msgpack|npz)$")


def is_module(folder: str) -> bool:
    """Whether a folder's name is that of layers after the network."""
    return _MODULE.fullmatch(f"{folder}/{CONFIG}") is not None


def small_files(paths: Collection[str]) -> list[str]:
    """What is needed beside the weights."""
    return sorted(
        path
        for path in paths
        if path in _NEEDED or _LICENCE.fullmatch(path) or _MODULE.fullmatch(path)
    )


def weight_files(paths: Collection[str], index: Collection[str] | None) -> list[str]:
    """The safetensors files: those that the index names, else the whole model, else all.

    ValueError when the index names what is not there.
    """
    if index is not None:
        for path in index:
            if path not in paths:
                raise ValueError(f"{INDEX} names {path!a}, which is not there")
        return sorted(index)
    here = sorted(path for path in paths if path.endswith(".safetensors") and "/" not in path)
    if "model.safetensors" in here:
        return ["model.safetensors"]
    # Some repositories hold all weights once more in one file, in another layout.
    others = [path for path in here if not path.startswith("consolidated")]
    return others or here


def has_weights(paths: Collection[str]) -> bool:
    """Whether there are safetensors of a network."""
    return INDEX in paths or bool(weight_files(paths, None))


def pickles(paths: Collection[str]) -> list[str]:
    """Weights in forms that are not read, for messages."""
    return sorted(path for path in paths if _PICKLE.search(path) and "/" not in path)


def shards(raw: bytes) -> frozenset[str]:
    """The files that an index names. ValueError says what is wrong with it."""
    try:
        value: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{INDEX} is not JSON: {str(error)[:100]}") from error
    places = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{INDEX} has no weight_map")
    names = frozenset(place if isinstance(place, str) else "" for place in places.values())
    if len(names) > MAX_SHARDS:
        raise ValueError(f"{INDEX} names {len(names)} files, over the limit of {MAX_SHARDS}")
    for name in names:
        checked_path(name)
        if not name.endswith(".safetensors"):
            raise ValueError(f"{INDEX} names {name!a}, which is no safetensors file")
    return names
