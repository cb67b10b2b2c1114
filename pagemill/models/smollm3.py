"""SmolLM3 (Hugging Face, 2025): Llama without rotation in every fourth layer."""

from pagemill.checkpoint import Family, WeightSource
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import Attention
from pagemill.models.llama import Llama, gguf_neighbours
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Rope
from pagemill.types import ModelCard

_INTERVAL = 4
_ROTATED = "rope.rotated_layers"  # of ours: GGUF files leave it out


class SmolLM3Attention(Attention):
    def rotation(self, card: ModelCard, source: WeightSource) -> Rope | None:
        rotated = bool((self.index + 1) % _INTERVAL)
        if source.keys.has(_ROTATED):
            rotated = bool(source.keys.wholes(_ROTATED, card.layers, 0, 1)[self.index])
        return rotary(card, source) if rotated else None


class SmolLM3Layer(PreNorm):
    attention_type = SmolLM3Attention


class SmolLM3(Llama):
    layer_type = SmolLM3Layer


MODEL = SmolLM3
FAMILIES = (
    Family(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        settings={_ROTATED: "no_rope_layers"},  # 1: rotated, whatever its name says
        row_orders=gguf_neighbours,
    ),
)
