"""Gemma 3 (Google DeepMind, 2025): Gemma 2 with norms of queries and keys instead of a cap, five
layers with a window for each without, and rotary positions of their own for those with one."""

from pagemill.checkpoint import Family, WeightSource
from pagemill.models.blocks import Sandwich
from pagemill.models.gemma import GeluFeedForward, norms
from pagemill.models.gemma2 import NORMS, SETTINGS, Gemma2, query_scale
from pagemill.models.layers import NormedAttention
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Rope, Scoring
from pagemill.types import ModelCard

_LAYERS_27B = 62
_LOCAL_BASE = 10000.0


class Gemma3Attention(NormedAttention):
    window_period = 6

    def score(self, card: ModelCard, source: WeightSource) -> Scoring:
        return Scoring(query_scale(card, source, _LAYERS_27B), self.window(card, source))

    def rotation(self, card: ModelCard, source: WeightSource) -> Rope:
        if not self.window(card, source):
            return rotary(card, source)
        base = source.keys.real("rope.freq_base_swa", 1e12, _LOCAL_BASE)
        return rotary(card, source, theta=base, scaled=False)


class Gemma3Layer(Sandwich):
    attention_type = Gemma3Attention
    ffn_type = GeluFeedForward


class Gemma3(Gemma2):
    layer_type = Gemma3Layer


MODEL = Gemma3
FAMILIES = (
    Family(
        "gemma3",
        ("Gemma3ForCausalLM",),
        settings={
            **{key: SETTINGS[key] for key in ("attention.scale", "final_logit_softcapping")},
            "rope.freq_base_swa": "rope_local_base_freq",
        },
        tensors=norms(**NORMS, attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm"),
    ),
)
