"""What a model says of how it wants to be sampled: GGUF metadata, or a folder's generation_config.

Owns the keys of both. A number out of our ranges is passed over with a line in the log: the model
runs well without it. An id that the vocabulary lacks is refused: the file is not what it says.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pagemill.errors import BadModelFile
from pagemill.small_files import read_json
from pagemill.types import KNOB_RANGES, WHOLE_KNOBS, GenerationDefaults

GENERATION_CONFIG = "generation_config.json"
_MAX_STOP_IDS = 128

# Our names, and those of the files.
GGUF_KEYS = MappingProxyType(
    {
        "temperature": "general.sampling.temp",
        "top_k": "general.sampling.top_k",
        "top_p": "general.sampling.top_p",
        "min_p": "general.sampling.min_p",
        "repetition_penalty": "general.sampling.penalty_repeat",
    }
)
_FOLDER_KEYS = MappingProxyType(
    {**{name: name for name in KNOB_RANGES}, "max_tokens": "max_new_tokens"}
)

_log = logging.getLogger(__name__)


def defaults_of_gguf(metadata: Mapping[str, Any]) -> GenerationDefaults:
    """The defaults in a GGUF file's metadata. Its tokenizer knows the ids that end an answer."""
    return GenerationDefaults(**_numbers(metadata, GGUF_KEYS, "the model file"))


def defaults_of_folder(folder: Path, vocab_size: int) -> GenerationDefaults:
    """The defaults of a model folder. BadModelFile for ids that the vocabulary lacks."""
    path = folder / GENERATION_CONFIG
    if not path.exists():
        return GenerationDefaults()
    config = read_json(path)
    numbers = _numbers(config, _FOLDER_KEYS, GENERATION_CONFIG)
    return GenerationDefaults(**numbers, stop_ids=_stop_ids(config.get("eos_token_id"), vocab_size))


def _numbers(values: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in keys.items():
        value = values.get(key)
        if value is None:
            continue
        low, high = KNOB_RANGES[name]
        kinds = (int,) if name in WHOLE_KNOBS else (int, float)
        if type(value) not in kinds or not low <= value <= high:
            kind = "a whole number" if name in WHOLE_KNOBS else "a number"
            rule = f"{kind} from {low:g} to {high:g}"
            _log.warning("%s: %s is %s, not %s: ignored", where, key, ascii(value)[:40], rule)
        else:
            found[name] = max(value, 0) if name == "top_k" else value
    return found


def _stop_ids(value: Any, vocab_size: int) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > _MAX_STOP_IDS:
        raise BadModelFile(
            f"{GENERATION_CONFIG}: eos_token_id has {len(ids)} ids, the limit is {_MAX_STOP_IDS}"
        )
    for token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            shown = ascii(token_id)[:40]
            raise BadModelFile(
                f"{GENERATION_CONFIG}: eos_token_id {shown} is no id from 0 to {vocab_size - 1}"
            )
    return tuple(dict.fromkeys(ids))
