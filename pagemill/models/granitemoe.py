"""Granite 3 MoE (IBM, 2024): Granite with experts, and sometimes a shared one."""

from collections.abc import Mapping, Sequence

from pagemill.checkpoint import Family, Keys, Pick, Take
from pagemill.models.granite import SETTINGS, Granite, GraniteLayer
from pagemill.models.llama import gguf_neighbours
from pagemill.models.moe import Mixture
from pagemill.ops.interface import Array


class GraniteMoeLayer(GraniteLayer):
    ffn_type = Mixture


class GraniteMoe(Granite):
    layer_type = GraniteMoeLayer


def gates(weights: Array, keys: Keys) -> Array:
    """(experts, 2 * size, hidden) holds gate and up of each expert, one after the other."""
    return weights[:, : weights.shape[1] // 2]


def ups(weights: Array, keys: Keys) -> Array:
    return weights[:, weights.shape[1] // 2 :]


def first_half(count: int, keys: Keys) -> Sequence[int]:
    """Rows of the gate, where it stands before up in one matrix."""
    return range(count // 2)


def second_half(count: int, keys: Keys) -> Sequence[int]:
    return range(count // 2, count)


_MOE = "model.layers.{}.block_sparse_moe"
_SHARED = "model.layers.{}.shared_mlp"
TENSORS: Mapping[str, str | Take | Pick] = {
    "blk.{}.ffn_gate_inp.weight": f"{_MOE}.router.layer.weight",
    "blk.{}.ffn_gate_exps.weight": Take(f"{_MOE}.input_linear.weight", gates),
    "blk.{}.ffn_up_exps.weight": Take(f"{_MOE}.input_linear.weight", ups),
    "blk.{}.ffn_down_exps.weight": f"{_MOE}.output_linear.weight",
    "blk.{}.ffn_gate_shexp.weight": Pick(f"{_SHARED}.input_linear.weight", first_half),
    "blk.{}.ffn_up_shexp.weight": Pick(f"{_SHARED}.input_linear.weight", second_half),
    "blk.{}.ffn_down_shexp.weight": f"{_SHARED}.output_linear.weight",
}

MODEL = GraniteMoe
FAMILIES = (
    Family(
        "granitemoe",
        ("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
        settings={**SETTINGS, "expert_shared_feed_forward_length": "shared_intermediate_size"},
        tensors=TENSORS,
        row_orders=gguf_neighbours,
    ),
)
