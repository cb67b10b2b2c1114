"""DeepSeek-V2 and V3 (DeepSeek-AI, 2024): latent attention, routed and shared experts.

Keys and values of all heads are made from one latent vector a token (`attn_kv_a_mqa`), so only that
vector and a rotated part that all heads share are cached. The matrices that would expand it are
applied to the queries (`attn_k_b`) and to the results (`attn_v_b`) instead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pagemill.checkpoint import Family, Keys, Origin, Take, WeightSource
from pagemill.errors import Unsupported
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import GatedFeedForward, Linear, RmsNorm
from pagemill.models.llama import Llama
from pagemill.models.moe import Mixture
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Array, Ops, Routing, Step
from pagemill.types import ModelCard

_MOST = 1 << 20
_SOFTMAX, _SIGMOID = 1, 2  # of expert_gating_func


@dataclass(frozen=True, slots=True)
class Widths:
    """Of one head's vectors, and of what all heads share."""

    latent: int  # shared, of which keys and values are made
    rope: int  # shared rotated part of keys
    plain: int  # of a query that is not rotated
    value: int

    @classmethod
    def read(cls, keys: Keys) -> "Widths":
        key = keys.whole("attention.key_length_mla", 2, _MOST)
        rope = keys.whole("rope.dimension_count", 2, key - 1)
        return cls(
            keys.whole("attention.kv_lora_rank", 1, _MOST),
            rope,
            key - rope,
            keys.whole("attention.value_length_mla", 1, _MOST),
        )


class LatentAttention:
    """Attention over one latent vector a token."""

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        self.ops, self.index, self.heads = ops, index, card.heads
        self.widths = w = Widths.read(source.keys)
        at, hidden, heads = f"blk.{index}", card.hidden_size, card.heads
        q_rows = (heads * w.plain, heads * w.rope)
        self.squeeze = self.q_norm = None
        rank, name = hidden, f"{at}.attn_q"
        if source.has(f"{at}.attn_q_a"):
            rank, name = source.keys.whole("attention.q_lora_rank", 1, _MOST), f"{at}.attn_q_b"
            self.squeeze = Linear(ops, source, (f"{at}.attn_q_a", rank), k=hidden)
            self.q_norm = RmsNorm(card, ops, source, f"{at}.attn_q_a_norm", rank)
        self.q = Linear(ops, source, (name, q_rows), k=rank)
        self.kv = Linear(ops, source, (f"{at}.attn_kv_a_mqa", w.latent + w.rope), k=hidden)
        self.kv_norm = RmsNorm(card, ops, source, f"{at}.attn_kv_a_norm", w.latent)
        keys_, values = (f"{at}.attn_k_b", heads * w.latent), (f"{at}.attn_v_b", heads * w.value)
        self.to_latent = ops.upload(source.matrix(keys_, k=w.plain))
        self.to_value = ops.upload(source.matrix(values, k=w.latent))
        self.output = Linear(ops, source, (f"{at}.attn_output", hidden), k=heads * w.value)
        stretch = _stretch(source.keys)
        self.scale = (w.plain + w.rope) ** -0.5 * stretch * stretch
        # What YaRN would multiply cosines and sines with is part of the scale.
        self.rope = replace(
            rotary(card, source),
            scale=source.keys.real("rope.scaling.attn_factor", 1e6, 1.0),
        )

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        ops, w, tokens = self.ops, self.widths, x.shape[0]
        y = x
        if self.squeeze is not None and self.q_norm is not None:
            y = self.q_norm(self.squeeze(x))
        q = self.q(y)  # first what is not rotated of all heads, then what is
        plain_end = self.heads * w.plain
        plain = q[:, :plain_end].reshape(tokens, self.heads, w.plain)
        rotated = q[:, plain_end:].reshape(tokens, self.heads, w.rope)
        rotated = ops.rope(rotated, step.positions, self.rope)
        latent_rope = self.kv(x)
        latent = self.kv_norm(latent_rope[:, : w.latent])
        k_rope = latent_rope[:, w.latent :].reshape(tokens, 1, w.rope)
        k_rope = ops.rope(k_rope, step.positions, self.rope).reshape(tokens, w.rope)
        y = ops.latent_attention(
            ops.linear_heads(plain, self.to_latent),
            rotated,
            latent,
            k_rope,
            kv[self.index],
            step,
            self.scale,
        )  # (T, heads, latent)
        y = ops.linear_heads(y, self.to_value)
        return ops.all_reduce(self.output(y.reshape(tokens, self.heads * w.value)))


class DeepSeekMixture(Mixture):
    def route(self, card: ModelCard, keys: Keys) -> Routing:
        sigmoid = keys.whole("expert_gating_func", 0, _SIGMOID, _SOFTMAX) == _SIGMOID
        return replace(
            super().route(card, keys),
            score="sigmoid" if sigmoid else "softmax",
            normalize=keys.flag("expert_weights_norm", False),
            groups=keys.whole("expert_group_count", 1, max(1, card.experts), 1),
            top_groups=keys.whole("expert_group_used_count", 1, max(1, card.experts), 1),
            group_pairs=sigmoid,
        )


class DeepSeekLayer(PreNorm):
    attention_type: Any = LatentAttention

    @staticmethod
    def ffn_type(
        card: ModelCard, ops: Ops, source: WeightSource, index: int
    ) -> GatedFeedForward | DeepSeekMixture:
        dense = source.keys.whole("leading_dense_block_count", 0, card.layers, 0)
        kind = GatedFeedForward if index < dense or not card.experts else DeepSeekMixture
        return kind(card, ops, source, index)


class DeepSeek2(Llama):
    layer_type = DeepSeekLayer

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        super().__init__(card, ops, source)
        self.widths = Widths.read(source.keys)

    def new_kv(self, num_pages: int, page_size: int, num_slots: int = 0) -> Array:
        w = self.widths
        return self.ops.new_kv(len(self.layers), num_pages, page_size, 1, w.latent + w.rope, True)


def _stretch(keys: Keys) -> float:
    """YaRN's factor of scores, squared by the caller."""
    if keys.text("rope.scaling.type", "none") != "yarn":
        return 1.0
    factor = keys.real("rope.scaling.factor", 1e6)
    log_multiplier = "rope.scaling.yarn_log_multiplier"
    if factor <= 1 or not keys.has(log_multiplier):
        return 1.0
    return keys.real(log_multiplier, 1e6) * math.log(factor) + 1.0


def rotated_last(card: ModelCard, keys: Keys, origin: Origin) -> Mapping[str, Sequence[int]]:
    """Files keep each head's rotated part behind its plain part, neighbouring elements together; we
    want the plain parts of all heads first, and pairs in halves."""
    w = Widths.read(keys)
    halves = [*range(0, w.rope, 2), *range(1, w.rope, 2)]
    head = w.plain + w.rope
    plain = [h * head + i for h in range(card.heads) for i in range(w.plain)]
    rotated = [h * head + w.plain + i for h in range(card.heads) for i in halves]
    shared = [*range(w.latent), *(w.latent + i for i in halves)]
    return {
        "attn_q": plain + rotated,
        "attn_q_b": plain + rotated,
        "attn_kv_a_mqa": shared,
    }


def kv_elements(card: ModelCard, keys: Keys) -> int:
    w = Widths.read(keys)
    return card.layers * 2 * (w.latent + w.rope)


def key_part(weight: Array, keys: Keys) -> Array:
    """(heads * (plain + value), latent) -> (heads, latent, plain)"""
    w = Widths.read(keys)
    heads = weight.reshape(-1, w.plain + w.value, w.latent)
    return heads[:, : w.plain].swapaxes(1, 2)


def value_part(weight: Array, keys: Keys) -> Array:
    """(heads * (plain + value), latent) -> (heads, value, latent)"""
    w = Widths.read(keys)
    return weight.reshape(-1, w.plain + w.value, w.latent)[:, w.plain :]


def _gating(config: Mapping[str, Any]) -> int:
    if not config.get("rope_interleave", True):
        raise Unsupported("config.json: rope_interleave: only true can be run")
    return _SIGMOID if "DeepseekV3ForCausalLM" in config["architectures"] else _SOFTMAX


def _groups(config: Mapping[str, Any]) -> int | None:
    greedy = config.get("topk_method") == "greedy"  # the best of all, whatever their group
    return None if greedy else config.get("n_group")


def _top_groups(config: Mapping[str, Any]) -> int | None:
    greedy = config.get("topk_method") == "greedy"
    return None if greedy else config.get("topk_group")


_LAYER = "model.layers.{}"
_ATTENTION = f"{_LAYER}.self_attn"

MODEL = DeepSeek2
FAMILIES = (
    Family(
        "deepseek2",
        ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
        settings={
            "attention.head_count_kv": lambda config: 1,
            "attention.key_length": lambda c: c["kv_lora_rank"] + c["qk_rope_head_dim"],
            "attention.value_length": "kv_lora_rank",
            "attention.key_length_mla": lambda c: c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
            "attention.value_length_mla": "v_head_dim",
            "attention.kv_lora_rank": "kv_lora_rank",
            "attention.q_lora_rank": "q_lora_rank",
            "rope.dimension_count": "qk_rope_head_dim",
            "leading_dense_block_count": "first_k_dense_replace",
            "expert_count": "n_routed_experts",
            "expert_shared_count": "n_shared_experts",
            "expert_feed_forward_length": "moe_intermediate_size",
            "expert_weights_norm": "norm_topk_prob",
            "expert_weights_scale": "routed_scaling_factor",
            "expert_gating_func": _gating,
            "expert_group_count": _groups,
            "expert_group_used_count": _top_groups,
        },
        tensors={
            "blk.{}.attn_q_a.weight": f"{_ATTENTION}.q_a_proj.weight",
            "blk.{}.attn_q_a_norm.weight": f"{_ATTENTION}.q_a_layernorm.weight",
            "blk.{}.attn_q_b.weight": f"{_ATTENTION}.q_b_proj.weight",
            "blk.{}.attn_kv_a_mqa.weight": f"{_ATTENTION}.kv_a_proj_with_mqa.weight",
            "blk.{}.attn_kv_a_norm.weight": f"{_ATTENTION}.kv_a_layernorm.weight",
            "blk.{}.attn_k_b.weight": Take(f"{_ATTENTION}.kv_b_proj.weight", key_part),
            "blk.{}.attn_v_b.weight": Take(f"{_ATTENTION}.kv_b_proj.weight", value_part),
            "blk.{}.ffn_gate_inp.weight": f"{_LAYER}.mlp.gate.weight",
            "blk.{}.exp_probs_b.bias": f"{_LAYER}.mlp.gate.e_score_correction_bias",
            "blk.{}.ffn_gate_shexp.weight": f"{_LAYER}.mlp.shared_experts.gate_proj.weight",
            "blk.{}.ffn_up_shexp.weight": f"{_LAYER}.mlp.shared_experts.up_proj.weight",
            "blk.{}.ffn_down_shexp.weight": f"{_LAYER}.mlp.shared_experts.down_proj.weight",
        },
        row_orders=rotated_last,
        kv_elements=kv_elements,
    ),
)
