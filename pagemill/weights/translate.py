"""A Hugging Face folder in GGUF's words: its settings, and its tensors under GGUF's names.

What families share is in `huggingface`, the rest in a `Family`. Must not know: networks.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pagemill.checkpoint import Family, Keys, Pick, Place, Take
from pagemill.errors import BadModelFile
from pagemill.weights import huggingface, quantized
from pagemill.weights.cursor import show
from pagemill.weights.folder import Folder
from pagemill.weights.keys import ConfigKeys
from pagemill.weights.sentences import sentence_settings
from pagemill.weights.source import Stored
from pagemill.weights.stored import Changed, Picked, Plain, Stack

_MOST_LAYERS = 1 << 12
_MOST_EXPERTS = 1 << 16
_SUFFIXES = (".weight", ".bias")
_OLD_ENDINGS = MappingProxyType({"Norm.gamma": "Norm.weight", "Norm.beta": "Norm.bias"})
_HEAD = "output.weight"
# How the names of a text model's tensors begin where it is part of a larger one.
_WRAPPERS = ("model.language_model.", "language_model.model.")


def class_name(folder: Folder) -> str:
    """The network's class as config.json names it."""
    names = folder.config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise BadModelFile(
            f"{folder.name}: config.json: 'architectures' does not name a network's class"
        )
    return names[0]


def settings(folder: Folder, family: Family) -> tuple[Mapping[str, Any], ConfigKeys]:
    """All that config.json says, under GGUF's keys, and typed reads of it."""
    config = _text_config(folder)
    # Functions of the file may count on a number of layers that memory can hold.
    own = ConfigKeys(config, f"{folder.name}: config.json", MappingProxyType({}))
    if isinstance(own_layers := family.settings.get("block_count", "num_hidden_layers"), str):
        own.whole(own_layers, 1, _MOST_LAYERS)
    found: dict[str, Any] = {
        "general.architecture": family.name,
        "general.name": folder.path.resolve().name,
    }
    labels = {"token_embd.weight": "model.embed_tokens.weight"}
    for key, where in {**huggingface.SETTINGS, **family.settings}.items():
        full = key if key.startswith("tokenizer.") else f"{family.name}.{key}"
        try:
            value = config.get(where) if isinstance(where, str) else where(config)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            what = "it, or what it is made from, is missing or of a wrong kind"
            raise own.bad(huggingface.LABELS.get(key, key), what) from None
        if value is not None:
            found[full] = value
        labels[full] = where if isinstance(where, str) else huggingface.LABELS.get(key, key)
    if family.pooling != "rank":  # classifiers pool as their networks do
        for key, value in sentence_settings(folder.path, folder.name).items():
            found[f"{family.name}.{key}"] = value
    return found, ConfigKeys(found, f"{folder.name}: config.json", labels)


def _text_config(folder: Folder) -> Mapping[str, Any]:
    """config.json; of a model that does more than text, with what it says of that part."""
    text = folder.config.get("text_config")
    return {**folder.config, **text} if isinstance(text, dict) else folder.config


def tensors(
    folder: Folder, family: Family, keys: Keys
) -> tuple[Mapping[str, Stored], Mapping[str, str]]:
    """The folder's tensors by GGUF's name, as far as the family has a name for them; and what the
    folder would call those that it does not have."""
    layers = keys.whole("block_count", 1, _MOST_LAYERS)
    experts = keys.whole("expert_count", 0, _MOST_EXPERTS, 0)
    places = dict(_places(family))
    stored = _canonical(folder, places)
    found: dict[str, Stored] = {}
    absent: dict[str, str] = {}
    for ours, several in places.items():
        for layer in range(layers if "{}" in ours else 1):
            candidates = (_find(stored, place, (layer, experts), keys) for place in several)
            tensor = next((one for one in candidates if one is not None), None)
            if tensor is None:
                absent[ours.format(layer)] = _name(several[0]).format(layer, 0)
            else:
                found[ours.format(layer)] = tensor
    tied = _text_config(folder).get("tie_word_embeddings")
    if tied is True:
        found.pop(_HEAD, None)  # a copy of the embedding
    elif tied is False and _HEAD not in found and class_name(folder).endswith("ForCausalLM"):
        raise BadModelFile(
            f"{folder.name}: tensor {show(absent[_HEAD])} is missing, and 'tie_word_embeddings' is "
            "false"
        )
    return found, absent


def nameless(folder: Folder, family: Family, found: Mapping[str, Stored]) -> Sequence[str]:
    """Tensors of the folder that have no name of ours, so that nobody can ask for them, and may
    matter."""
    named = {origin for tensor in found.values() for origin in tensor.origins}
    endings = (*huggingface.IGNORED, *quantized.IGNORED, *family.ignored)
    if _text_config(folder).get("tie_word_embeddings") is True:
        endings = (*endings, "lm_head.weight")
    inside = _wrapper(folder.tensors)
    return [
        name
        for name in folder.tensors
        if name not in named and name.startswith(inside) and not name.endswith(endings)
    ]


def _places(family: Family) -> Iterator[tuple[str, Sequence[Place]]]:
    """GGUF's tensor -> where it may be, of the family and, where it has no other word, of all."""
    taken: set[str] = set()
    for ours, theirs in family.tensors.items():
        places = (theirs,) if isinstance(theirs, str | Take | Pick) else theirs
        taken.update(_name(place) for place in places)
        yield ours, places
    for ours, theirs in huggingface.TENSORS.items():
        for suffix in _SUFFIXES:
            if f"{ours}{suffix}" not in family.tensors and f"{theirs}{suffix}" not in taken:
                yield f"{ours}{suffix}", (f"{theirs}{suffix}",)


def _name(place: Place) -> str:
    return place if isinstance(place, str) else place.name


def _canonical(folder: Folder, places: Mapping[str, Sequence[Place]]) -> Mapping[str, Stored]:
    """The folder's tensors under the names that `places` have for them: files of a part of a
    model, or of a larger one, call them with another beginning."""
    stored: dict[str, Stored] = {
        name: Plain(name, info.dtype, info.shape or (1,), info.nbytes, folder.data)
        for name, info in folder.tensors.items()
    }
    stored.update(quantized.matrices(folder))
    for name in list(stored):  # as they were called once
        for old, new in _OLD_ENDINGS.items():
            if name.endswith(old):
                stored[name.removesuffix(old) + new] = stored[name]
    expected = _name(places["token_embd.weight"][0])
    beginning, dot, rest = expected.partition(".")
    if expected in stored:
        return stored
    inside = _wrapper(stored)
    if inside or rest in stored:
        for name in list(stored):
            if name.startswith(inside):
                stored[beginning + dot + name.removeprefix(inside)] = stored[name]
            elif name.endswith("lm_head.weight"):
                stored["lm_head.weight"] = stored[name]
    return stored


def _wrapper(names: Mapping[str, object]) -> str:
    """How the names of the text model begin in a file of a larger one, else nothing."""
    for wrapper in _WRAPPERS:
        if any(name.startswith(wrapper) for name in names):
            return wrapper
    return ""


def _find(
    stored: Mapping[str, Stored], place: Place, layer_and_experts: tuple[int, int], keys: Keys
) -> Stored | None:
    pattern, (layer, experts) = _name(place), layer_and_experts
    of_experts = pattern.count("{}") > 1
    if pattern.format(layer, 0) not in stored or (of_experts and not experts):
        return None
    found: Stored = stored[pattern.format(layer, 0)]
    if of_experts:
        parts = [stored.get(pattern.format(layer, expert)) for expert in range(experts)]
        for expert, part in enumerate(parts):
            if part is None:
                name = show(pattern.format(layer, expert))
                raise BadModelFile(f"tensor {name}, of one of {experts} experts, is missing")
        found = Stack([part for part in parts if part is not None])
    if isinstance(place, Take):
        return Changed(found, place.change, keys)
    return Picked(found, place.rows, keys) if isinstance(place, Pick) else found
