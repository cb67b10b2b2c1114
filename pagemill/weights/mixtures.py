"""Which format each tensor of a quantized model gets: the published mixtures of llama.cpp.

A mixture has a format for most matrices and gives more bits to those that quality depends on most:
the output, values of attention, the last matrix of a feed-forward network, the first and last
layers. Small and sensitive tensors are not quantized at all. Must not know: files, values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pagemill.errors import Unsupported
from pagemill.weights import formats


@dataclass(frozen=True, slots=True)
class Mixture:
    """A way to quantize: its name, the format of most matrices, and `general.file_type`."""

    name: str
    base: str
    file_type: int


@dataclass(frozen=True, slots=True)
class Network:
    """What a choice depends on besides names and shapes."""

    architecture: str
    layers: int
    heads: int  # of the first layer
    kv_heads: int
    experts: int

    @property
    def queries_per_key(self) -> int:
        return self.heads // max(1, self.kv_heads)


MIXTURES: Final = MappingProxyType(
    {
        name.lower(): Mixture(name, base, file_type)
        for name, base, file_type in (
            ("f32", "F32", 0),
            ("f16", "F16", 1),
            ("bf16", "BF16", 32),
            ("q8_0", "Q8_0", 7),
            ("q6_K", "Q6_K", 18),
            ("q5_K_M", "Q5_K", 17),
            ("q5_K_S", "Q5_K", 16),
            ("q5_1", "Q5_1", 9),
            ("q5_0", "Q5_0", 8),
            ("q4_K_M", "Q4_K", 15),
            ("q4_K_S", "Q4_K", 14),
            ("iq4_nl", "IQ4_NL", 25),
            ("q4_1", "Q4_1", 3),
            ("q4_0", "Q4_0", 2),
            ("mxfp4_moe", "MXFP4", 38),
            ("q3_K_L", "Q3_K", 13),
            ("q3_K_M", "Q3_K", 12),
            ("q3_K_S", "Q3_K", 11),
            ("q2_K", "Q2_K", 10),
            ("tq2_0", "TQ2_0", 37),
            ("tq1_0", "TQ1_0", 36),
        )
    }
)
_SHORT: Final = MappingProxyType({"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"})

_UNQUANTIZED: Final = frozenset({"F32", "F16", "BF16"})
# What a format of 256-element blocks gives way to where rows are not whole blocks; what then does
# not fit either becomes F16.
_FOR_ODD_ROWS: Final = MappingProxyType(
    {
        "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0",
        "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
    }
)  # fmt: skip
# Parts of names of matrices that stay as they are: tiny, or fed to operations other than products.
_KEPT: Final = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel",
    "per_layer_model_proj", "position_embd", "token_types.weight", "ssm_conv1d",
    "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
    "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
    "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
    "attn_rel_b.weight", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd",
    ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_EIGHT_EXPERTS: Final = 8  # an architecture of which it was measured what helps
_MANY_LAYERS: Final = 80  # as are models of 70 billion parameters
_MANY_QUERIES: Final = 4  # for each key: the values are few, and more bits for them cost little
_LAYER: Final = re.compile(r"blk\.(\d+)\.")


def mixture(name: str) -> Mixture:
    """The mixture called `name`, in upper or lower case; Unsupported lists what exists."""
    key = name.lower()
    found = MIXTURES.get(_SHORT.get(key, key))
    if found is None:
        known = ", ".join(one.name for one in MIXTURES.values())
        raise Unsupported(f"type {name!r} is unknown; there are {known}")
    return found


def is_kept(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is left as it is, whatever the mixture."""
    return len(shape) < 2 or not name.endswith("weight") or any(part in name for part in _KEPT)


def choose(
    mixture: Mixture, network: Network, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """The format of every tensor that is not kept."""
    todo = {name: shape for name, shape in shapes.items() if not is_kept(name, shape)}
    if mixture.base == "MXFP4" and all(len(shape) < 3 for shape in todo.values()):
        raise Unsupported(f"type {mixture.name!r} is for models with experts, this one has none")
    if mixture.base in _UNQUANTIZED:
        return dict.fromkeys(todo, mixture.base)
    num_values = sum(map(_is_values, shapes))
    rules = _Rules(mixture, network, tied="output.weight" not in shapes, num_values=num_values)
    chosen = {name: rules.choose(name, todo[name]) for name in sorted(todo, key=_by_layer)}
    return {name: fitting(chosen[name], shape[-1]) for name, shape in todo.items()}


def fitting(name: str, k: int) -> str:
    """The format called `name`, or what stands in for it where rows have `k` elements."""
    for fallback in (name, _FOR_ODD_ROWS.get(name, "F16"), "F16"):
        if k % formats.get(fallback).BLOCK_SIZE == 0:
            return fallback
    raise AssertionError("F16 fits all")


def _layer(name: str) -> int:
    """The layer a tensor belongs to; -1 for none."""
    found = _LAYER.match(name)
    return int(found[1]) if found else -1


def _by_layer(name: str) -> tuple[int, str]:
    return _layer(name), name


def _is_values(name: str) -> bool:
    return any(f"{part}.weight" in name for part in ("attn_v", "attn_qkv", "attn_kv_b"))


class _Rules:
    """The mixture's choices for one model, to be asked for in the order of its layers."""

    def __init__(self, mixture: Mixture, network: Network, *, tied: bool, num_values: int) -> None:
        self._mixture, self._base, self._network = mixture.name, mixture.base, network
        self._falcon = network.architecture == "falcon"
        self._tied, self._num_values = tied, num_values
        self._values_seen = self._downs_seen = 0

    def choose(self, name: str, shape: tuple[int, ...]) -> str:
        embedding = name in ("token_embd.weight", "per_layer_token_embd.weight")
        if name == "output.weight" or (self._tied and embedding):
            return self._output(shape[-1])
        if self._base == "MXFP4":
            return "MXFP4" if len(shape) > 2 else "Q8_0"
        if embedding:
            return "Q4_K" if self._base in ("TQ1_0", "TQ2_0") else self._base
        if _is_values(name):
            return self._values()
        if "attn_k.weight" in name and self._network.experts == _EIGHT_EXPERTS:
            return "Q8_0"
        if "attn_output.weight" in name:
            return self._attention_output()
        if "ffn_down" in name:
            return self._ffn_down(name)
        return self._base

    def _output(self, k: int) -> str:
        odd = k % formats.get(self._base).BLOCK_SIZE != 0
        return "Q8_0" if odd or self._falcon or self._base in ("Q8_0", "MXFP4") else "Q6_K"

    def _values(self) -> str:
        seen, many_queries = self._values_seen, self._network.queries_per_key >= _MANY_QUERIES
        self._values_seen += 1
        chosen = self._base
        match self._mixture:
            case "q2_K":
                chosen = "Q4_K" if many_queries else "Q3_K"
            case "q3_K_M":
                chosen = "Q5_K" if seen < 2 else "Q4_K"
            case "q3_K_L":
                chosen = "Q5_K"
            case "q4_K_S" if seen < 4:
                chosen = "Q5_K"
            case "q4_K_M" | "q5_K_M" if _more_bits(seen, self._num_values):
                chosen = "Q6_K"
            case "iq4_nl" if many_queries:
                chosen = "Q5_K"
        large = self._network.layers == _MANY_LAYERS and self._network.queries_per_key > 1
        if large and chosen in ("Q3_K", "Q4_K"):
            chosen = "Q5_K"
        return "Q8_0" if self._network.experts == _EIGHT_EXPERTS else chosen

    def _ffn_down(self, name: str) -> str:
        # Experts may be several tensors of a layer, so that counting would not do.
        layer = _layer(name) if self._network.experts > 1 else self._downs_seen
        self._downs_seen += 1
        layers, more = self._network.layers, _more_bits(layer, self._network.layers)
        match self._mixture:
            case "q2_K":
                return "Q3_K"
            case "q3_K_M" if layer < layers // 16:
                return "Q5_K"
            case "q3_K_M":
                return "Q4_K" if more or not self._falcon else "Q3_K"
            case "q3_K_L":
                return "Q4_K" if self._falcon else "Q5_K"
            case "q4_K_M" if self._falcon:
                return "Q6_K" if layer < layers // 16 else "Q5_K" if more else "Q4_K"
            case "q4_K_M" | "q5_K_M" if more:
                return "Q6_K"
            case "q4_K_S" if layer < layers // 8 and not self._falcon:
                return "Q5_K"
            case "iq4_nl" if layer < layers // 8:
                return "Q5_K"
        return self._base

    def _attention_output(self) -> str:
        if self._falcon:
            return "Q4_K" if self._mixture == "q3_K_L" else self._base
        if self._network.experts == _EIGHT_EXPERTS:
            small = ("q2_K", "q3_K_S", "q3_K_M", "q4_K_S", "q4_K_M", "iq4_nl")
            return "Q5_K" if self._mixture in small else self._base
        more = {"q2_K": "Q3_K", "q3_K_M": "Q4_K", "q3_K_L": "Q5_K"}
        return more.get(self._mixture, self._base)


def _more_bits(number: int, count: int) -> bool:
    """Whether a layer is among the first or last eighth, or every third of the others."""
    first = count // 8
    return number < first or number >= 7 * count // 8 or (number - first) % 3 == 2
