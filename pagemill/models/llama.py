"""Llama (Touvron et al., 2023) and what is built like it. Read this network first.

The forward pass touches arrays only through `.shape`, slicing, `.reshape`, `+` and ops, so it runs
unchanged on every backend and can be recorded by one. The gather `x[step.out_rows]` is the one
index that is an array.
"""

from pagemill.models.layers import Attention, FeedForward, Norm, rotary
from pagemill.ops.interface import Array, Ops, Rope, Step, WeightSource
from pagemill.types import ModelCard


class LlamaLayer:
    """One transformer layer. A relative that differs here overrides what differs."""

    def __init__(
        self, card: ModelCard, ops: Ops, source: WeightSource, index: int, rope: Rope
    ) -> None:
        self.attention_norm = Norm(card, ops, source, f"blk.{index}.attn_norm")
        self.attention = Attention(card, ops, source, index, rope)
        self.ffn_norm = Norm(card, ops, source, f"blk.{index}.ffn_norm")
        self.ffn = FeedForward(ops, source, index)

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        x = x + self.attention(self.attention_norm(x), step, kv)
        return x + self.ffn(self.ffn_norm(x))


class Llama:
    """The network: `model(step, kv)` are the logits (S, V) of the step's sampled rows."""

    layer_type = LlamaLayer

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        self.card, self.ops = card, ops
        rope = rotary(card, source)
        self.embedding = ops.upload(source.matrix("token_embd"), table=True)
        self.layers = [
            self.layer_type(card, ops, source, index, rope) for index in range(card.layers)
        ]
        self.norm = Norm(card, ops, source, "output_norm")
        tied = card.tied_embeddings
        self.head = self.embedding if tied else ops.upload(source.matrix("output"))

    @classmethod
    def load(cls, card: ModelCard, ops: Ops, source: WeightSource) -> "Llama":
        """Take the weights over, one matrix at a time. BadModelFile names what is missing."""
        return cls(card, ops, source)

    def new_kv(self, num_pages: int, page_size: int) -> Array:
        """Pages for keys and values of all layers."""
        card = self.card
        return self.ops.new_kv(card.layers, num_pages, page_size, card.kv_heads, card.head_dim)

    def __call__(self, step: Step, kv: Array) -> Array:
        x = self.ops.embed(step.token_ids, self.embedding)  # (T, hidden)
        for layer in self.layers:
            x = layer(x, step, kv)
        x = self.norm(x[step.out_rows])  # only rows that will be sampled
        return self.ops.linear(x, self.head)


MODEL = Llama
