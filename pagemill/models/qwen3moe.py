"""Qwen3-MoE (Qwen team, 2025): Qwen3 with experts."""

from pagemill.checkpoint import Family
from pagemill.models.llama import Llama
from pagemill.models.moe import dense_or_mixture
from pagemill.models.qwen3 import Qwen3Layer


class Qwen3MoeLayer(Qwen3Layer):
    ffn_type = staticmethod(dense_or_mixture)


class Qwen3Moe(Llama):
    layer_type = Qwen3MoeLayer


MODEL = Qwen3Moe
FAMILIES = (
    Family(
        "qwen3moe",
        ("Qwen3MoeForCausalLM",),
        settings={
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_weights_norm": "norm_topk_prob",
        },
    ),
)
