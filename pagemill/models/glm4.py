"""GLM-4 0414 (Zhipu AI, 2025): norms on both sides, half of each head rotated, neighbouring
elements together."""

from pagemill.checkpoint import Family
from pagemill.models.blocks import Sandwich
from pagemill.models.command_r import neighbours
from pagemill.models.llama import Llama


class Glm4(Llama):
    layer_type = Sandwich


_LAYER = "model.layers.{}"

MODEL = Glm4
FAMILIES = (
    Family(
        "glm4",
        ("Glm4ForCausalLM",),
        tensors={
            "blk.{}.post_attention_norm.weight": f"{_LAYER}.post_self_attn_layernorm.weight",
            "blk.{}.ffn_norm.weight": f"{_LAYER}.post_attention_layernorm.weight",
            "blk.{}.post_ffw_norm.weight": f"{_LAYER}.post_mlp_layernorm.weight",
            "blk.{}.ffn_up.weight": f"{_LAYER}.mlp.gate_up_proj.weight",
        },
        row_orders=neighbours,
    ),
)
