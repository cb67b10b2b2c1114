"""Llama (Touvron et al., 2023) and what is built like it. Read this network first.

The forward pass touches arrays only through `.shape`, slicing, `.reshape`, `+` and ops, so it runs
unchanged on every backend and can be recorded by one. The gather `x[step.out_rows]` is the one
index that is an array.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pagemill.checkpoint import Family, Keys, Origin, WeightSource, neighbours_to_halves
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import RmsNorm
from pagemill.models.moe import dense_or_mixture
from pagemill.models.pooling import Pooler
from pagemill.ops.interface import Array, Ops, Step
from pagemill.types import ModelCard


class LlamaLayer(PreNorm):
    """Mixtral is a Llama with experts, in GGUF files by name too."""

    ffn_type = staticmethod(dense_or_mixture)


class Llama:
    """The network: `model(step, kv)` are the logits (S, V) of the step's sampled rows."""

    layer_type: type[PreNorm] = LlamaLayer
    norm_type: Any = RmsNorm

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        """Takes the weights over, one matrix at a time. BadModelFile names what is missing."""
        self.card, self.ops = card, ops
        table = ("token_embd", card.vocab_size)
        self.embedding = ops.upload(source.matrix(table, k=card.hidden_size), table=True)
        self.layers = [self.layer_type(card, ops, source, index) for index in source.layers]
        self.norm = self.norm_type(card, ops, source, "output_norm")
        self.head = self.embedding
        if not card.tied_embeddings:
            self.head = ops.upload(source.matrix(("output", card.vocab_size), k=card.hidden_size))
        self.pooler = Pooler(card, ops, source) if card.pooling else None

    def new_kv(self, num_pages: int, page_size: int, num_slots: int = 0) -> Array:
        """Pages for keys and values of all layers."""
        heads, dim = self.card.kv_heads, self.card.head_dim
        return self.ops.new_kv(len(self.layers), num_pages, page_size, heads, dim)

    def embed(self, step: Step) -> Array:
        return self.ops.embed(step.token_ids, self.embedding)  # (T, hidden)

    def logits(self, x: Array) -> Array:
        """(S, hidden) of the rows that will be sampled -> (S, V)."""
        return self.ops.linear(self.norm(x), self.head)

    def begin(self, step: Step) -> Array:
        return self.ops.residual(self.embed(step))

    def __call__(self, step: Step, kv: Array) -> Array:
        x = self.begin(step)
        for layer in self.layers:
            x = layer(x, step, kv)
        return self.end(x, step)

    def end(self, x: Array, step: Step) -> Array:
        if self.pooler is not None:  # it was trained to give vectors, not to write
            return self.pooler(self.norm(x), step)
        return self.logits(x[step.out_rows])


def gguf_neighbours(card: ModelCard, keys: Keys, origin: Origin) -> Mapping[str, Sequence[int]]:
    """GGUF files of Llama pair neighbouring elements of q and k for rotary positions."""
    if origin != "gguf":
        return {}
    return {
        "attn_q": neighbours_to_halves(card.heads, card.head_dim, card.rope_dim),
        "attn_k": neighbours_to_halves(card.kv_heads, card.head_dim, card.rope_dim),
    }


_MOE = "model.layers.{}.block_sparse_moe"

MODEL = Llama
FAMILIES = (
    Family(
        "llama",
        ("LlamaForCausalLM", "MistralForCausalLM", "MinistralForCausalLM"),
        row_orders=gguf_neighbours,
    ),
    Family(
        "llama",
        ("MixtralForCausalLM",),
        tensors={
            "blk.{}.ffn_gate_inp.weight": f"{_MOE}.gate.weight",
            "blk.{}.ffn_gate_exps.weight": f"{_MOE}.experts.{{}}.w1.weight",
            "blk.{}.ffn_up_exps.weight": f"{_MOE}.experts.{{}}.w3.weight",
            "blk.{}.ffn_down_exps.weight": f"{_MOE}.experts.{{}}.w2.weight",
        },
        row_orders=gguf_neighbours,
    ),
)
