"""Command R7B and its relatives (Cohere, 2024): Command-R with a window in three of four layers;
the fourth sees everything and rotates nothing."""

from pagemill.checkpoint import Family, WeightSource
from pagemill.models.command_r import CommandR, CommandRLayer, neighbours
from pagemill.models.layers import Attention
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Rope
from pagemill.types import ModelCard


class Cohere2Attention(Attention):
    window_period = 4

    def rotation(self, card: ModelCard, source: WeightSource) -> Rope | None:
        return rotary(card, source) if self.window(card, source) else None


class Cohere2Layer(CommandRLayer):
    attention_type = Cohere2Attention


class Cohere2(CommandR):
    layer_type = Cohere2Layer


MODEL = Cohere2
FAMILIES = (
    Family(
        "cohere2",
        ("Cohere2ForCausalLM",),
        settings={"logit_scale": "logit_scale"},
        row_orders=neighbours,
    ),
)
