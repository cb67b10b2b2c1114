"""Phi-3 and Phi-4 (Microsoft, 2024): Llama whose files hold fused matrices, with frequencies for
short and for long contexts."""

from pagemill.checkpoint import Family
from pagemill.models.llama import Llama

MODEL = Llama
FAMILIES = (
    Family(
        "phi3",
        ("Phi3ForCausalLM",),
        tensors={
            "blk.{}.attn_qkv.weight": "model.layers.{}.self_attn.qkv_proj.weight",
            "blk.{}.ffn_up.weight": "model.layers.{}.mlp.gate_up_proj.weight",
        },
    ),
)
