"""ModernBERT (Warner et al., 2024): an encoder built like today's decoders.

Norms come before what they are for, positions are rotary, the feed-forward network is gated. Of
three layers one sees the whole text; the others see a window to either side, and have rotary
positions of another base.
"""

from collections.abc import Mapping
from typing import Any

from pagemill.checkpoint import Family, Setting, Take, WeightSource
from pagemill.errors import Unsupported
from pagemill.models.bert import Bert, both, keeps_nothing, labels
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import GatedFeedForward, LayerNorm
from pagemill.models.pooling import DenseAttention, Pooler
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Array, Ops, Pooling, Rope, Step
from pagemill.types import ModelCard

_LOCAL_BASE = 10000.0
_MOST_WINDOW = 1 << 31
_GLOBAL_EVERY = 3
_POOLINGS: Mapping[int, Pooling] = {1: "mean", 2: "cls"}  # by GGUF's number


class ModernBertAttention(DenseAttention):
    def window(self, card: ModelCard, source: WeightSource) -> int:
        """The first layer and every third after it see all; the others half a window each way."""
        keys = source.keys
        period = keys.whole("attention.sliding_window_pattern", 1, card.layers, _GLOBAL_EVERY)
        size = keys.whole("attention.sliding_window", 0, _MOST_WINDOW, 0)
        return size // 2 + 1 if size and self.index % period else 0

    def rotation(self, card: ModelCard, source: WeightSource) -> Rope:
        if not self.window(card, source):
            return rotary(card, source)
        base = source.keys.real("rope.freq_base_swa", 1e12, _LOCAL_BASE)
        return rotary(card, source, theta=base, scaled=False)


class ModernBertFeedForward(GatedFeedForward):
    """Its files hold gate and up in one matrix."""

    activation = "gelu"


class ModernBertLayer(PreNorm):
    attention_type = ModernBertAttention
    ffn_type = ModernBertFeedForward
    norm_type = LayerNorm

    def load_norms(self, card: ModelCard, ops: Ops, source: WeightSource, at: str) -> None:
        self.attention_norm = None  # of the first layer: the embeddings are normed already
        if source.has(f"{at}.attn_norm"):
            self.attention_norm = LayerNorm(card, ops, source, f"{at}.attn_norm")
        self.ffn_norm = LayerNorm(card, ops, source, f"{at}.ffn_norm")

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        y = x if self.attention_norm is None else self.attention_norm(x)
        x = x + self.attention(y, step, kv)
        return x + self.ffn(self.ffn_norm(x))


class ModernBert(Bert):
    layer_type = ModernBertLayer

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        super().__init__(card, ops, source)
        self.norm = LayerNorm(card, ops, source, "output_norm")

    def load_positions(self, source: WeightSource) -> None:
        """There are none: queries and keys are rotated."""

    def load_pooler(self, source: WeightSource) -> Pooler:
        number = source.keys.whole("classifier.pooling_type", 1, len(_POOLINGS), 1)
        return Pooler(self.card, self.ops, source, _POOLINGS[number], "gelu")

    def place(self, x: Array, step: Step) -> Array:
        return x

    def finish(self, x: Array) -> Array:
        return self.norm(x)


def _period(config: Mapping[str, Any]) -> Any:
    """Of how many layers one sees all."""
    kinds = config.get("layer_types")
    if kinds is None:
        return config.get("global_attn_every_n_layers")
    wide = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
    period = wide[1] if len(wide) > 1 else len(kinds)
    if wide != list(range(0, len(kinds), period)):
        raise Unsupported("config.json: 'layer_types': layers in no regular order cannot be run")
    return period


def _base(layers: str, old: str) -> Setting:
    """The rotary base of a kind of layers."""

    def find(config: Mapping[str, Any]) -> Any:
        rope = (config.get("rope_parameters") or {}).get(layers) or {}
        return rope.get("rope_theta", config.get(old))

    return find


def _tensors() -> dict[str, str | Take]:
    at = "model.layers.{}"
    return both(
        {
            "token_embd": "model.embeddings.tok_embeddings",
            "token_embd_norm": "model.embeddings.norm",
            "output_norm": "model.final_norm",
            "blk.{}.attn_norm": f"{at}.attn_norm",
            "blk.{}.attn_qkv": f"{at}.attn.Wqkv",
            "blk.{}.attn_output": f"{at}.attn.Wo",
            "blk.{}.ffn_norm": f"{at}.mlp_norm",
            "blk.{}.ffn_up": f"{at}.mlp.Wi",
            "blk.{}.ffn_down": f"{at}.mlp.Wo",
        }
    )


_SETTINGS: Mapping[str, Setting] = {
    "attention.layer_norm_epsilon": "norm_eps",
    "attention.sliding_window": "local_attention",
    "attention.sliding_window_pattern": _period,
    "rope.freq_base": _base("full_attention", "global_rope_theta"),
    "rope.freq_base_swa": _base("sliding_attention", "local_rope_theta"),
}
_HEAD = both({"cls": "head.dense", "cls.norm": "head.norm", "cls.output": "classifier"})
_GUESSING = ("head.dense.weight", "head.norm.weight", "decoder.weight", "decoder.bias")

MODEL = ModernBert
FAMILIES = (
    Family(
        "modern-bert",
        ("ModernBertModel", "ModernBertForMaskedLM"),
        settings=_SETTINGS,
        tensors=_tensors(),
        ignored=_GUESSING,
        kv_elements=keeps_nothing,
        pooling="mean",
    ),
    Family(
        "modern-bert",
        ("ModernBertForSequenceClassification",),
        settings={
            **_SETTINGS,
            "classifier.output_labels": labels,
            "classifier.activation": "classifier_activation",
            "classifier.pooling_type": lambda config: {"mean": 1, "cls": 2}[
                config.get("classifier_pooling", "cls")
            ],
        },
        tensors=_tensors() | _HEAD,
        kv_elements=keeps_nothing,
        pooling="rank",
    ),
)
