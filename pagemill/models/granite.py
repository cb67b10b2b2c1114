"""Granite 3 (IBM, 2024): Llama with factors for embeddings, scores, residuals and logits."""

from pagemill.checkpoint import Family, WeightSource
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import Attention
from pagemill.models.llama import Llama, gguf_neighbours
from pagemill.ops.interface import Array, Ops, Scoring, Step
from pagemill.types import ModelCard

_MOST = 1e6


class GraniteAttention(Attention):
    def score(self, card: ModelCard, source: WeightSource) -> Scoring:
        scale = source.keys.real("attention.scale", _MOST, card.head_dim**-0.5)
        return Scoring(scale, self.window(card, source))


class GraniteLayer(PreNorm):
    attention_type = GraniteAttention

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        super().__init__(card, ops, source, index)
        self.factor = source.keys.real("residual_scale", _MOST, 1.0)

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        y = self.attention(self.attention_norm(x), step, kv)
        x = x + self.ops.scale(y, self.factor)
        return x + self.ops.scale(self.ffn(self.ffn_norm(x)), self.factor)


class Granite(Llama):
    layer_type = GraniteLayer

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        super().__init__(card, ops, source)
        self.embedding_factor = source.keys.real("embedding_scale", _MOST, 1.0)
        self.logit_divisor = source.keys.real("logit_scale", _MOST, 1.0)

    def embed(self, step: Step) -> Array:
        return self.ops.scale(super().embed(step), self.embedding_factor)

    def logits(self, x: Array) -> Array:
        return self.ops.scale(super().logits(x), 1 / self.logit_divisor)


SETTINGS = {
    "embedding_scale": "embedding_multiplier",
    "attention.scale": "attention_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}

MODEL = Granite
FAMILIES = (
    Family("granite", ("GraniteForCausalLM",), settings=SETTINGS, row_orders=gguf_neighbours),
)
