"""Layers: the ways in which networks arrange attention, feed-forward network and norms.

Each is x + something, twice; a network names the one it uses and overrides what differs. Must not
know: which network it is part of.
"""

from typing import Any

from pagemill.checkpoint import WeightSource
from pagemill.models.layers import Attention, GatedFeedForward, RmsNorm
from pagemill.ops.interface import Array, Ops, Step
from pagemill.types import ModelCard


class PreNorm:
    """Norms before attention and before the feed-forward network: Llama and most others."""

    attention_type: type[Attention] = Attention
    ffn_type: Any = GatedFeedForward
    norm_type: Any = RmsNorm

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        self.ops = ops
        self.attention = self.attention_type(card, ops, source, index)
        self.ffn = self.ffn_type(card, ops, source, index)
        self.load_norms(card, ops, source, f"blk.{index}")

    def load_norms(self, card: ModelCard, ops: Ops, source: WeightSource, at: str) -> None:
        self.attention_norm = self.norm_type(card, ops, source, f"{at}.attn_norm")
        self.ffn_norm = self.norm_type(card, ops, source, f"{at}.ffn_norm")

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        x = x + self.attention(self.attention_norm(x), step, kv)
        return x + self.ffn(self.ffn_norm(x))


class PostNorm(PreNorm):
    """Norms of what attention and feed-forward network give, none before: OLMo 2."""

    def load_norms(self, card: ModelCard, ops: Ops, source: WeightSource, at: str) -> None:
        self.attention_norm = self.norm_type(card, ops, source, f"{at}.post_attention_norm")
        self.ffn_norm = self.norm_type(card, ops, source, f"{at}.post_ffw_norm")

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        x = x + self.attention_norm(self.attention(x, step, kv))
        return x + self.ffn_norm(self.ffn(x))


class Sandwich(PreNorm):
    """Norms on both sides: Gemma 2 and 3, GLM-4."""

    def load_norms(self, card: ModelCard, ops: Ops, source: WeightSource, at: str) -> None:
        super().load_norms(card, ops, source, at)
        self.attention_post = self.norm_type(card, ops, source, f"{at}.post_attention_norm")
        self.ffn_post = self.norm_type(card, ops, source, f"{at}.post_ffw_norm")

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        x = x + self.attention_post(self.attention(self.attention_norm(x), step, kv))
        return x + self.ffn_post(self.ffn(self.ffn_norm(x)))


class Parallel(PreNorm):
    """Attention and feed-forward network side by side, from one norm: Command-R."""

    def load_norms(self, card: ModelCard, ops: Ops, source: WeightSource, at: str) -> None:
        self.attention_norm = self.norm_type(card, ops, source, f"{at}.attn_norm")

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        y = self.attention_norm(x)
        return x + self.attention(y, step, kv) + self.ffn(y)
