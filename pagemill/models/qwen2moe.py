"""Qwen1.5-MoE and Qwen2-MoE (Qwen team, 2024): Qwen2 with experts whose weights do not sum to 1,
and a gated shared expert."""

from pagemill.checkpoint import Family
from pagemill.models.blocks import PreNorm
from pagemill.models.llama import Llama
from pagemill.models.moe import Mixture


class Qwen2Mixture(Mixture):
    normalize = False


class Qwen2MoeLayer(PreNorm):
    ffn_type = Qwen2Mixture


class Qwen2Moe(Llama):
    layer_type = Qwen2MoeLayer


_MLP = "model.layers.{}.mlp"

MODEL = Qwen2Moe
FAMILIES = (
    Family(
        "qwen2moe",
        ("Qwen2MoeForCausalLM",),
        settings={
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
            "expert_weights_norm": "norm_topk_prob",
        },
        tensors={
            "blk.{}.ffn_gate_inp_shexp.weight": f"{_MLP}.shared_expert_gate.weight",
            "blk.{}.ffn_gate_shexp.weight": f"{_MLP}.shared_expert.gate_proj.weight",
            "blk.{}.ffn_up_shexp.weight": f"{_MLP}.shared_expert.up_proj.weight",
            "blk.{}.ffn_down_shexp.weight": f"{_MLP}.shared_expert.down_proj.weight",
        },
    ),
)
