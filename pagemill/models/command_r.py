"""Command-R (Cohere, 2024): attention and feed-forward network side by side, layer norms without
shift, neighbouring elements rotated together, a factor of the logits."""

from collections.abc import Mapping, Sequence

from pagemill.checkpoint import Family, Keys, Origin, WeightSource, neighbours_to_halves
from pagemill.models.blocks import Parallel
from pagemill.models.layers import LayerNorm
from pagemill.models.llama import Llama
from pagemill.ops.interface import Array, Ops
from pagemill.types import ModelCard

_MOST = 1e6


class CommandRLayer(Parallel):
    norm_type = LayerNorm


class CommandR(Llama):
    layer_type: type[Parallel] = CommandRLayer
    norm_type = LayerNorm

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        super().__init__(card, ops, source)
        self.logit_scale = source.keys.real("logit_scale", _MOST, 1.0)

    def logits(self, x: Array) -> Array:
        return self.ops.scale(super().logits(x), self.logit_scale)


def neighbours(card: ModelCard, keys: Keys, origin: Origin) -> Mapping[str, Sequence[int]]:
    """Files of either kind pair neighbouring elements of q and k for rotary positions."""
    return {
        "attn_q": neighbours_to_halves(card.heads, card.head_dim, card.rope_dim),
        "attn_k": neighbours_to_halves(card.kv_heads, card.head_dim, card.rope_dim),
    }


MODEL = CommandR
FAMILIES = (
    Family(
        "command-r",
        ("CohereForCausalLM",),
        settings={"logit_scale": "logit_scale"},
        row_orders=neighbours,
    ),
)
