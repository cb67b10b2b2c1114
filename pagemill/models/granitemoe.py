"""Granite 3 MoE (IBM, 2024): Granite with experts."""

from pagemill.checkpoint import Family, Keys, Take
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


_MOE = "model.layers.{}.block_sparse_moe"

MODEL = GraniteMoe
FAMILIES = (
    Family(
        "granitemoe",
        ("GraniteMoeForCausalLM",),
        settings=SETTINGS,
        tensors={
            "blk.{}.ffn_gate_inp.weight": f"{_MOE}.router.layer.weight",
            "blk.{}.ffn_gate_exps.weight": Take(f"{_MOE}.input_linear.weight", gates),
            "blk.{}.ffn_up_exps.weight": Take(f"{_MOE}.input_linear.weight", ups),
            "blk.{}.ffn_down_exps.weight": f"{_MOE}.output_linear.weight",
        },
        row_orders=gguf_neighbours,
    ),
)
