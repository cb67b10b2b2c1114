"""Ministral 3 and the text part of Mistral Small 3.1 (Mistral AI, 2025): Llama whose queries grow
with their position, a step for each length of the original context."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pagemill.checkpoint import Family, Keys, WeightSource
from pagemill.errors import Unsupported
from pagemill.models.layers import Attention
from pagemill.models.llama import Llama, LlamaLayer, gguf_neighbours
from pagemill.models.rotary import original_length, rotary
from pagemill.ops.interface import Array, Ops, Rope, Step
from pagemill.types import ModelCard

_MOST = 1e6
_GROWTH = "attention.temperature_scale"
_LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"
_ATTENTION_FACTOR = "rope.scaling.attn_factor"
_MULTIPLIERS = ("mscale", "mscale_all_dim")  # above and below the fraction, in config.json
_TEXT_MODELS = (None, "mistral", "mistral3", "ministral3")  # of config.json; None: not stated


class Mistral3Attention(Attention):
    rope: Rope  # of keys

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        super().__init__(card, ops, source, index)
        self.query_rope, keys = self.rope, source.keys
        if not keys.has(_GROWTH):
            return
        if not _is_yarn(keys):
            raise keys.unsupported(_GROWTH, "cannot be run but with rotary positions of type yarn")
        if card.rope_dim != card.head_dim:
            what = f"needs all elements of a head rotated, {card.rope_dim} of {card.head_dim} are"
            raise keys.unsupported(_GROWTH, what)
        growth, period = keys.real(_GROWTH, _MOST), original_length(card, keys)
        self.query_rope = replace(self.rope, growth=growth, period=period)

    def rotation(self, card: ModelCard, source: WeightSource) -> Rope:
        """GGUF files state the multiplier below the fraction that is YaRN's attention factor; the
        one above it is 1."""
        rope, keys = rotary(card, source), source.keys
        if not (_is_yarn(keys) and keys.has(_LOG_MULTIPLIER)) or keys.has(_ATTENTION_FACTOR):
            return rope
        factor, below = keys.real("rope.scaling.factor", _MOST), keys.real(_LOG_MULTIPLIER, _MOST)
        return replace(rope, scale=_fraction(factor, 1.0, below))

    def attend(self, q: Array, k: Array, v: Array, step: Step, kv: Array) -> Array:
        if self.query_rope == self.rope:
            return super().attend(q, k, v, step, kv)
        ops, at = self.ops, step.positions
        q, k = ops.rope(q, at, self.query_rope), ops.rope(k, at, self.rope)
        return ops.attention(q, k, v, kv[self.index], step, self.scoring)


class Mistral3Layer(LlamaLayer):
    attention_type = Mistral3Attention


class Mistral3(Llama):
    layer_type = Mistral3Layer


def _is_yarn(keys: Keys) -> bool:
    return keys.text("rope.scaling.type", "none") == "yarn"


def _fraction(factor: float, above: float, below: float) -> float:
    grown = 0.1 * math.log(max(1.0, factor))
    return (above * grown + 1) / (below * grown + 1)


def _growth(config: Mapping[str, Any]) -> Any:
    kind = config.get("model_type")
    if kind not in _TEXT_MODELS:
        raise Unsupported(
            f"config.json: model_type: a text model of type {str(kind)[:64]!a} cannot be run as "
            "Mistral 3, only mistral and ministral3"
        )
    return _rope(config).get("llama_4_scaling_beta") or None


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found


def _attention_factor(config: Mapping[str, Any]) -> Any:
    """As it is stated, or what it comes to where the multiplier above the fraction is not 1."""
    rope = _rope(config)
    given, above, below = (rope.get(key) for key in ("attention_factor", *_MULTIPLIERS))
    if given is not None or not (above and below) or above == 1:
        return given
    return _fraction(rope["factor"], above, below)


def _log_multiplier(config: Mapping[str, Any]) -> Any:
    """Both multipliers or none."""
    rope = _rope(config)
    above, below = (rope.get(key) for key in _MULTIPLIERS)
    return below if above and below else None


MODEL = Mistral3
FAMILIES = (
    Family(
        "mistral3",
        ("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
        settings={
            _GROWTH: _growth,
            _ATTENTION_FACTOR: _attention_factor,
            _LOG_MULTIPLIER: _log_multiplier,
        },
        row_orders=gguf_neighbours,
    ),
)
