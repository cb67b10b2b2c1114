"""Gemma 2 (Google DeepMind, 2024): Gemma with norms on both sides, soft caps of scores and logits,
and a window in every other layer."""

from collections.abc import Mapping

from pagemill.checkpoint import Family, Setting, WeightSource
from pagemill.models.blocks import PreNorm, Sandwich
from pagemill.models.gemma import GeluFeedForward, Gemma, norms
from pagemill.models.layers import Attention
from pagemill.ops.interface import Array, Ops, Scoring
from pagemill.types import ModelCard

_LAYERS_27B = 46
_MOST_CAP = 1e6


def query_scale(card: ModelCard, source: WeightSource, big: int) -> float:
    """The factor of scores. GGUF files do not state it: that of the network with `big` layers goes
    by the width of the network, that of the others by the width of a head."""
    heads = source.keys.whole("attention.head_count", 1, 1 << 16, card.heads)  # of all processes
    width = card.hidden_size // heads if card.layers == big else card.head_dim
    return source.keys.real("attention.scale", 1.0, float(width) ** -0.5)


class Gemma2Attention(Attention):
    window_period = 2

    def score(self, card: ModelCard, source: WeightSource) -> Scoring:
        scale = query_scale(card, source, _LAYERS_27B)
        key = "attn_logit_softcapping"
        cap = source.keys.real(key, _MOST_CAP) if source.keys.has(key) else 0.0
        return Scoring(scale, self.window(card, source), cap)


class Gemma2Layer(Sandwich):
    attention_type = Gemma2Attention
    ffn_type = GeluFeedForward


class Gemma2(Gemma):
    layer_type: type[PreNorm] = Gemma2Layer

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        super().__init__(card, ops, source)
        key = "final_logit_softcapping"
        self.cap = source.keys.real(key, _MOST_CAP) if source.keys.has(key) else 0.0

    def logits(self, x: Array) -> Array:
        logits = super().logits(x)
        return self.ops.softcap(logits, self.cap) if self.cap else logits


SETTINGS: Mapping[str, Setting] = {
    "attention.scale": lambda config: float(config["query_pre_attn_scalar"]) ** -0.5,
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
NORMS: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

MODEL = Gemma2
FAMILIES = (Family("gemma2", ("Gemma2ForCausalLM",), settings=SETTINGS, tensors=norms(**NORMS)),)
