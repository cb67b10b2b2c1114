"""What a folder of sentence-transformers adds to a network: how vectors are pooled, and how long a
text may be.

modules.json lists the steps from a text to its vector. Those known here are the network, pooling
and scaling to length 1 (which all embeddings have); what would change the vector in another way is
refused. Must not know: networks, tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pagemill.errors import BadModelFile, Unsupported
from pagemill.small_files import MAX_JSON_BYTES, parse_json, read_json, read_text
from pagemill.weights.cursor import show

_MODULES, _LIMITS = "modules.json", "sentence_bert_config.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")
_MODE = "pooling_mode_"
# GGUF's numbers. The mean times the root of the length points where the mean does.
_POOLINGS = {
    "mean": 1,
    "mean_tokens": 1,
    "mean_sqrt_len_tokens": 1,
    "cls": 2,
    "cls_token": 2,
    "lasttoken": 3,
}


def sentence_settings(folder: Path, name: str) -> Mapping[str, Any]:
    """Settings under GGUF's keys, where the folder has them: "pooling_type", and "sentence_length",
    the most tokens of a text. `name` is the folder's, for messages."""
    found: dict[str, Any] = {}
    if not (folder / _MODULES).exists():
        return found
    for module in _modules(folder, name):
        kind, where = module.get("type"), module.get("path")
        if not isinstance(kind, str) or not isinstance(where, str):
            raise BadModelFile(f"{name}: {_MODULES}: a module needs a 'type' and a 'path'")
        kind = kind.rpartition(".")[2]
        if kind not in _KNOWN:
            raise Unsupported(
                f"{name}: {_MODULES}: a {show(kind)} module cannot be run; "
                f"supported: {', '.join(_KNOWN)}"
            )
        if kind == "Pooling":
            found["pooling_type"] = _pooling(folder, where, name)
    if (folder / _LIMITS).exists():
        longest = read_json(folder / _LIMITS).get("max_seq_length")
        if longest is not None:
            found["sentence_length"] = longest
    return found


def _modules(folder: Path, name: str) -> list[Mapping[str, Any]]:
    text = read_text(folder / _MODULES, MAX_JSON_BYTES)
    # A list, where all other files of a folder hold an object.
    modules = parse_json(f'{{"modules":{text}}}', ascii(_MODULES))["modules"]
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise BadModelFile(f"{name}: {_MODULES} must hold a list of objects")
    return modules


def _pooling(folder: Path, where: str, name: str) -> int:
    """The number that GGUF has for the one pooling that is switched on."""
    if not where or where.startswith(".") or any(letter in "/\\:\0" for letter in where):
        raise BadModelFile(f"{name}: {_MODULES}: {show(where)} is not the name of a folder in it")
    config = read_json(folder / where / "config.json")
    modes = [key.removeprefix(_MODE) for key, on in config.items() if key.startswith(_MODE) and on]
    if isinstance(mode := config.get("pooling_mode"), str):
        modes.append(mode)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise Unsupported(
            f"{name}: {where}/config.json: pooling {show(' and '.join(modes) or 'of nothing')} "
            f"cannot be run; supported: one of {', '.join(_POOLINGS)}"
        )
    return _POOLINGS[modes[0]]
