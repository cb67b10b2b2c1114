"""Gemma (Google DeepMind, 2024): Llama with scaled embeddings and a GELU gate.

Its safetensors files store norm weights w for a norm that multiplies by 1 + w; GGUF files hold the
sum, and so do we.
"""

from collections.abc import Mapping

from pagemill.checkpoint import Family, Keys, Take
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import GatedFeedForward
from pagemill.models.llama import Llama
from pagemill.ops.interface import Array, Step


class GeluFeedForward(GatedFeedForward):
    activation = "gelu_tanh"


class GemmaLayer(PreNorm):
    ffn_type = GeluFeedForward


class Gemma(Llama):
    layer_type: type[PreNorm] = GemmaLayer

    def embed(self, step: Step) -> Array:
        return self.ops.scale(super().embed(step), self.card.hidden_size**0.5)


def one_more(weight: Array, keys: Keys) -> Array:
    return weight + 1


def norms(**names: str) -> Mapping[str, Take]:
    """GGUF's names of a layer's norms -> theirs in safetensors files, and the last norm."""
    taken = {
        f"blk.{{}}.{ours}.weight": Take(f"model.layers.{{}}.{theirs}.weight", one_more)
        for ours, theirs in names.items()
    }
    return taken | {"output_norm.weight": Take("model.norm.weight", one_more)}


MODEL = Gemma
FAMILIES = (
    Family(
        "gemma",
        ("GemmaForCausalLM",),
        # The first files said "gelu" and meant the network's own.
        settings={"hidden_activation": lambda config: None},
        tensors=norms(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm"),
    ),
)
