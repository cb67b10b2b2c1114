"""GPT-2 (Radford et al., 2019): learned positions, layer norms, a plain feed-forward network."""

from collections.abc import Sequence

from pagemill.checkpoint import Family, Keys, Place, Take, WeightSource
from pagemill.models.layers import Attention
from pagemill.models.starcoder2 import StarCoder2, StarCoder2Layer
from pagemill.ops.interface import Array, Ops, Step
from pagemill.types import ModelCard


class Gpt2Attention(Attention):
    def rotation(self, card: ModelCard, source: WeightSource) -> None:
        return None


class Gpt2Layer(StarCoder2Layer):
    attention_type = Gpt2Attention


class Gpt2(StarCoder2):
    layer_type = Gpt2Layer

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        super().__init__(card, ops, source)
        table = ("position_embd", card.context_length)
        self.positions = ops.upload(source.matrix(table, k=card.hidden_size), table=True)

    def embed(self, step: Step) -> Array:
        return super().embed(step) + self.ops.embed(step.positions, self.positions)


def transposed(weight: Array, keys: Keys) -> Array:
    """Its safetensors files store matrices as (inputs, outputs)."""
    return weight.T


_NAMES = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_TENSORS: dict[str, Place | Sequence[Place]] = {
    "token_embd.weight": "transformer.wte.weight",
    "position_embd.weight": "transformer.wpe.weight",
    "output_norm.weight": "transformer.ln_f.weight",
    "output_norm.bias": "transformer.ln_f.bias",
}
for _ours, _theirs in _NAMES.items():
    _weight = f"transformer.h.{{}}.{_theirs}.weight"
    _TENSORS[f"blk.{{}}.{_ours}.weight"] = _weight if "norm" in _ours else Take(_weight, transposed)
    _TENSORS[f"blk.{{}}.{_ours}.bias"] = f"transformer.h.{{}}.{_theirs}.bias"

MODEL = Gpt2
FAMILIES = (
    Family(
        "gpt2",
        ("GPT2LMHeadModel",),
        settings={
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "attention.head_count": "n_head",
            "attention.head_count_kv": "n_head",
            "context_length": "n_positions",
            "feed_forward_length": lambda config: config.get("n_inner") or 4 * config["n_embd"],
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        tensors=_TENSORS,
        ignored=(".attn.bias", ".attn.masked_bias"),  # masks, not weights
    ),
)
