"""StarCoder2 (BigCode, 2024): layer norms, biases everywhere and a plain feed-forward network."""

from pagemill.checkpoint import Family
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import FeedForward, LayerNorm
from pagemill.models.llama import Llama


class TanhFeedForward(FeedForward):
    activation = "gelu_tanh"


class StarCoder2Layer(PreNorm):
    ffn_type = TanhFeedForward
    norm_type = LayerNorm


class StarCoder2(Llama):
    layer_type = StarCoder2Layer
    norm_type = LayerNorm


MODEL = StarCoder2
FAMILIES = (
    Family(
        "starcoder2",
        ("Starcoder2ForCausalLM",),
        settings={"attention.layer_norm_epsilon": "norm_epsilon"},
        tensors={
            f"blk.{{}}.{ours}.{part}": f"model.layers.{{}}.mlp.{theirs}.{part}"
            for ours, theirs in (("ffn_up", "c_fc"), ("ffn_down", "c_proj"))
            for part in ("weight", "bias")
        },
    ),
)
