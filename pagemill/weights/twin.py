"""A Hugging Face folder as a GGUF file has it: settings with their types, tensors in its order.

Settings and tensors come from `translate`; here are the types that other readers of GGUF insist
on, and the rows of queries and keys in the order that files of the architecture have. Must not
know: tokenizers, mixtures.
"""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pagemill.checkpoint import Family, Keys
from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.interface import Float32
from pagemill.types import ModelCard
from pagemill.weights import formats, translate
from pagemill.weights.card import POOLINGS, read_card
from pagemill.weights.cursor import show
from pagemill.weights.folder import Folder
from pagemill.weights.gguf_writer import encode
from pagemill.weights.load import Checkpoint, Families
from pagemill.weights.mixtures import is_kept
from pagemill.weights.source import Names, Rows, Stored, TensorSource

# Settings that are written as float32, whatever config.json has; all others are as they come.
REALS: Final = frozenset(
    {
        "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.scale",
        "attention.temperature_scale",
        "attn_logit_softcapping", "embedding_scale", "expert_weights_scale",
        "final_logit_softcapping", "logit_scale", "residual_scale", "rope.freq_base",
        "rope.freq_base_swa", "rope.scaling.attn_factor", "rope.scaling.factor",
        "rope.scaling.high_freq_factor", "rope.scaling.low_freq_factor",
        "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
        "rope.scaling.yarn_log_multiplier",
    }
)  # fmt: skip
_KINDS: Final = MappingProxyType({bool: "bool", int: "uint32", float: "float32", str: "string"})
# Ways to stretch frequencies that GGUF has no word for: the tensor rope_freqs says what they do.
_AS_TENSOR: Final = ("llama3", "dynamic")
_FACTORS: Final = MappingProxyType(
    {
        "rope.scaling.short_factor": "rope_factors_short.weight",
        "rope.scaling.long_factor": "rope_factors_long.weight",
    }
)
_FLOATS: Final = ("F32", "F16", "BF16")
_WHOLE: Final = ("MXFP4",)  # the one quantized format that folders and GGUF files share
_OF_EXPERTS: Final = "_exps."
_MATRIX_DIMS: Final = 2
_STACK_DIMS: Final = 3


@dataclass(frozen=True, slots=True)
class Vector:
    """A `quantize.SourceTensor` of numbers that no tensor of the folder holds."""

    name: str
    values: Float32
    format: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def raw(self) -> NDArray[np.uint8]:
        return formats.get_packing("F32").pack(self.values.reshape(1, -1))

    def rows(self, start: int, stop: int) -> Float32:
        return self.values.reshape(1, -1)[start:stop]


class _Desk:
    """Holds what was read last, so that no more than one tensor is in memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: tuple[Stored, int | None, Rows] | None = None

    def read(self, stored: Stored, expert: int | None) -> Rows:
        """All rows of a tensor, or those of one of its experts."""
        with self._lock:
            held = self._held
            if held is None or held[0] is not stored or held[1] != expert:
                held = self._held = None  # before the next one comes
                held = self._held = (stored, expert, stored.read(expert))
            return held[2]


class FolderTensor:
    """A `quantize.SourceTensor` of an open folder: `order` are its rows, or of a vector its
    elements, in GGUF's order. Tensors that no mixture rounds are float32, as GGUF has them."""

    def __init__(
        self,
        name: str,
        stored: Stored,
        shape: tuple[int, ...],
        order: NDArray[np.intp] | None,
        desk: _Desk,
    ) -> None:
        self.name, self.shape = name, shape
        self.format = "F32" if is_kept(name, shape) else stored.format
        self._stored, self._order, self._desk = stored, order, desk
        self._by_expert = _OF_EXPERTS in name and len(stored.shape) == _STACK_DIMS

    def raw(self) -> NDArray[np.uint8]:
        form, stored = self._desk.read(self._stored, None)
        if form == self.format and self._order is None:
            return stored
        num_rows = math.prod(self.shape[:-1])
        return formats.get_packing(self.format).pack(self._values(form, stored, slice(0, num_rows)))

    def rows(self, start: int, stop: int) -> Float32:
        if not self._by_expert:
            return self._values(*self._desk.read(self._stored, None), slice(start, stop))
        found, size = [], self.shape[-2]
        for expert in range(start // size, -(-stop // size)):  # one in memory at a time
            first = expert * size
            form, stored = self._desk.read(self._stored, expert)
            inner = slice(max(start - first, 0), min(stop - first, size))
            found.append(self._values(form, stored, inner))
        return np.concatenate(found)

    def _values(self, form: str, stored: NDArray[np.uint8], rows: slice) -> Float32:
        if self.shape != self._stored.shape:  # small tensors of recurrences
            values = formats.get(form).unpack(stored.reshape(1, -1))
            return values.reshape(-1, self.shape[-1])[rows]
        if self._order is None:
            return formats.get(form).unpack(stored[rows])
        if len(self.shape) < _MATRIX_DIMS:
            return formats.get(form).unpack(stored)[:, self._order]
        return formats.get(form).unpack(stored[self._order[rows]])


@dataclass(frozen=True, slots=True)
class Twin:
    """What a GGUF file of the folder has, but for its tokenizer. `values` are as
    `gguf_writer.encode` gives them; `checkpoint` is the same folder for networks to look at."""

    checkpoint: Checkpoint
    values: Mapping[str, bytes]
    tensors: Sequence[FolderTensor | Vector]
    stretched: bool  # whether a tensor rope_freqs must say how frequencies are stretched


def open_twin(path: Path, families: Families, name: str) -> Twin:
    """Read a folder's headers. `name` is what the file calls the model. BadModelFile, or
    Unsupported for a folder that is quantized already."""
    folder = Folder.open(path)
    family = families.family_of_class(translate.class_name(folder))
    metadata, general = translate.settings(folder, family)
    keys = general.of(family.name)
    stored, absent = translate.tensors(folder, family, keys)
    for tensor in stored.values():
        if tensor.format not in (*_FLOATS, *_WHOLE):
            raise Unsupported(
                f"{folder.name}: tensor {show(tensor.name)} is {tensor.format}: the folder is "
                f"quantized already; only those in {', '.join(_FLOATS)} can be written as GGUF"
            )
    card = read_card(general, stored, folder.name, family)
    others = translate.nameless(folder, family, stored)
    names = Names(folder.name, others, absent)
    source = TensorSource(stored, card, family, keys, "safetensors", names)
    desk, orders = _Desk(), _orders(family, card, keys)
    settings, factors = _settings(metadata, family, card, keys, folder.name)
    tensors = [
        FolderTensor(
            name,
            tensor,
            _shape(name, tensor.shape, keys),
            orders.get(name.rpartition(".")[0].rpartition(".")[2]),
            desk,
        )
        for name, tensor in stored.items()
    ]
    return Twin(
        checkpoint=Checkpoint(card, metadata, source, path),
        values={**settings, "general.name": encode("string", name)},
        tensors=[*factors, *tensors],
        stretched=keys.text("rope.scaling.type", "none") in _AS_TENSOR,
    )


def _shape(name: str, shape: tuple[int, ...], keys: Keys) -> tuple[int, ...]:
    """As GGUF has it: there are tensors of recurrences whose elements stand in other rows."""
    part = name.partition(".")[2].partition(".")[2]  # of "blk.0.ssm_conv1d.weight"
    if part == "ssm_conv1d.weight":
        return (shape[0], shape[-1])
    if part in ("ssm_a", "ssm_d"):
        return (math.prod(shape), 1)
    if part == "ssm_norm.weight":
        groups = keys.whole("ssm.group_count", 1, shape[-1], 1)
        return (groups, shape[-1] // groups)
    return shape


def _orders(family: Family, card: ModelCard, keys: Keys) -> Mapping[str, NDArray[np.intp]]:
    """Of tensors whose rows have another order in GGUF files: where each row is in the folder."""
    if family.row_orders is None:
        return {}
    from_folder = family.row_orders(card, keys, "safetensors")
    from_gguf = family.row_orders(card, keys, "gguf")
    orders = {}
    for name in {*from_folder, *from_gguf}:
        size = len(from_folder.get(name) or from_gguf[name])
        places = np.argsort(np.array(from_gguf.get(name, range(size)), np.intp))
        order = np.array(from_folder.get(name, range(size)), np.intp)[places]
        if (order != np.arange(size)).any():
            orders[name] = order
    return orders


def _settings(
    metadata: Mapping[str, Any], family: Family, card: ModelCard, keys: Keys, shown: str
) -> tuple[dict[str, bytes], list[Vector]]:
    """The metadata, and the settings that GGUF has as tensors."""
    found: dict[str, bytes] = {"general.type": encode("string", "model")}
    factors = []
    in_tensor = keys.text("rope.scaling.type", "none") in _AS_TENSOR
    for full, value in metadata.items():
        key = full.removeprefix(f"{family.name}.")
        if in_tensor and key.startswith("rope.scaling."):
            continue
        if key in _FACTORS:
            values = keys.reals(key, card.rope_dim // 2, 1e6)
            factors.append(Vector(_FACTORS[key], np.array(values, np.float32)))
        else:
            found[full] = _encoded(full, key, value, shown)
    more = {"rope.dimension_count": card.rope_dim} if keys.has("rope.freq_base") else {}
    if card.pooling:
        more |= {"pooling_type": POOLINGS.index(card.pooling)}
        if family.kv_elements is not None and not family.kv_elements(card, keys):
            more |= {"attention.causal": False}  # it keeps nothing: all tokens see each other
    for key, number in more.items():
        found[f"{family.name}.{key}"] = encode(_KINDS[type(number)], number)
    return found, factors


def _encoded(full: str, key: str, value: Any, shown: str) -> bytes:
    is_list = isinstance(value, list | tuple)
    items = list(value) if is_list else [value]
    if key in REALS and all(type(item) is int for item in items):
        items = [float(item) for item in items]
    kinds = {_KINDS.get(type(item), "") for item in items}
    fits = all(0 <= item < 1 << 32 for item in items if type(item) is int)
    if len(kinds) != 1 or "" in kinds or not fits:
        raise BadModelFile(f"{shown}: {full} is {str(value)[:64]!a}, which GGUF has no type for")
    [kind] = kinds
    return encode(f"[{kind}]", items) if is_list else encode(kind, items[0])
