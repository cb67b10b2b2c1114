"""gpt-oss (OpenAI, 2025): attention sinks, a window in every other layer, experts with biases and a
clamped gate."""

from collections.abc import Sequence
from dataclasses import replace

from pagemill.checkpoint import Family, Keys, Pick, Take, WeightSource
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import Attention
from pagemill.models.llama import Llama
from pagemill.models.moe import Mixture
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Array, Ops, Rope, Routing
from pagemill.types import ModelCard


class GptOssAttention(Attention):
    window_period = 2

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        super().__init__(card, ops, source, index)
        self.sinks = ops.vector(source.vector((f"blk.{index}.attn_sinks", card.heads)))

    def rotation(self, card: ModelCard, source: WeightSource) -> Rope:
        return rotary(card, source, truncate=False)


class GptOssMixture(Mixture):
    def route(self, card: ModelCard, keys: Keys) -> Routing:
        return replace(super().route(card, keys), activation="clamped_silu")


class GptOssLayer(PreNorm):
    attention_type = GptOssAttention
    ffn_type = GptOssMixture

    def load_norms(self, card: ModelCard, ops: Ops, source: WeightSource, at: str) -> None:
        self.attention_norm = self.norm_type(card, ops, source, f"{at}.attn_norm")
        self.ffn_norm = self.norm_type(card, ops, source, f"{at}.post_attention_norm")


class GptOss(Llama):
    layer_type = GptOssLayer


def gates(weights: Array, keys: Keys) -> Array:
    """(experts, hidden, 2 * size) holds gate and up in turn; we want (experts, size, hidden)."""
    return weights[..., ::2].swapaxes(-1, -2)


def ups(weights: Array, keys: Keys) -> Array:
    return weights[..., 1::2].swapaxes(-1, -2)


def swapped(weights: Array, keys: Keys) -> Array:
    return weights.swapaxes(-1, -2)


def even(biases: Array, keys: Keys) -> Array:
    return biases[..., ::2]


def odd(biases: Array, keys: Keys) -> Array:
    return biases[..., 1::2]


def even_rows(count: int, keys: Keys) -> Sequence[int]:
    return range(0, count, 2)


def odd_rows(count: int, keys: Keys) -> Sequence[int]:
    return range(1, count, 2)


_MLP = "model.layers.{}.mlp"

MODEL = GptOss
FAMILIES = (
    Family(
        "gpt-oss",
        ("GptOssForCausalLM",),
        settings={"expert_feed_forward_length": "intermediate_size"},
        tensors={
            "blk.{}.post_attention_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
            "blk.{}.attn_sinks.weight": "model.layers.{}.self_attn.sinks",
            "blk.{}.ffn_gate_inp.weight": f"{_MLP}.router.weight",
            "blk.{}.ffn_gate_inp.bias": f"{_MLP}.router.bias",
            "blk.{}.ffn_gate_exps.weight": (
                Pick(f"{_MLP}.experts.gate_up_proj_blocks", even_rows),  # MXFP4: rows are outputs
                Take(f"{_MLP}.experts.gate_up_proj", gates),
            ),
            "blk.{}.ffn_up_exps.weight": (
                Pick(f"{_MLP}.experts.gate_up_proj_blocks", odd_rows),
                Take(f"{_MLP}.experts.gate_up_proj", ups),
            ),
            "blk.{}.ffn_down_exps.weight": (
                f"{_MLP}.experts.down_proj_blocks",
                Take(f"{_MLP}.experts.down_proj", swapped),
            ),
            "blk.{}.ffn_gate_exps.bias": Take(f"{_MLP}.experts.gate_up_proj_bias", even),
            "blk.{}.ffn_up_exps.bias": Take(f"{_MLP}.experts.gate_up_proj_bias", odd),
            "blk.{}.ffn_down_exps.bias": f"{_MLP}.experts.down_proj_bias",
        },
    ),
)
