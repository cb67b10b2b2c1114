"""Parts of networks that give vectors: attention to both sides, pooling, a classifier's head.

A decoder that was trained to embed has causal attention and pools its last token; an encoder sees
both sides and pools its first, or the mean of all. Must not know: which network it is part of.
"""

from pagemill.checkpoint import WeightSource
from pagemill.models.activations import read_activation
from pagemill.models.layers import Attention, LayerNorm, Linear
from pagemill.ops.interface import Activation, Array, Ops, Pooling, Step
from pagemill.types import ModelCard


class DenseAttention(Attention):
    """Attention of every token to all tokens of its row. It keeps nothing."""

    def attend(self, q: Array, k: Array, v: Array, step: Step, kv: Array) -> Array:
        if self.rope is not None:
            q, k = (self.ops.rope(x, step.positions, self.rope) for x in (q, k))
        return self.ops.dense_attention(q, k, v, step, self.scoring)


class Head:
    """A classifier's last part: output(norm(activation(dense(x)))); decoders have the output only.

    One score a row, or one for each label.
    """

    def __init__(
        self, card: ModelCard, ops: Ops, source: WeightSource, activation: Activation | None
    ) -> None:
        """`activation`: None for a head without a dense part; files may name another."""
        self.ops = ops
        self.dense = self.norm = None
        if activation is not None:
            self.dense = Linear(ops, source, ("cls", card.hidden_size), k=card.hidden_size)
            self.activation = read_activation(source.keys, "classifier.activation", activation)
            if source.has("cls.norm"):
                self.norm = LayerNorm(card, ops, source, "cls.norm")
        labels = max(1, len(card.labels))
        self.output = Linear(ops, source, ("cls.output", labels), k=card.hidden_size)

    def __call__(self, x: Array) -> Array:
        if self.dense is not None:
            x = self.ops.act(self.dense(x), self.activation)
        if self.norm is not None:
            x = self.norm(x)
        return self.output(x)


class Pooler:
    """From hidden states (T, K) to a vector for each row: an embedding of length 1, or scores."""

    def __init__(
        self,
        card: ModelCard,
        ops: Ops,
        source: WeightSource,
        rank_by: Pooling = "last",
        activation: Activation | None = None,
    ) -> None:
        """`rank_by` and `activation` are of classifiers: what they pool, and their dense part."""
        self.ops = ops
        self.head = Head(card, ops, source, activation) if card.pooling == "rank" else None
        kinds: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "last": "last", "rank": rank_by}
        self.kind = kinds[card.pooling]

    def __call__(self, x: Array, step: Step) -> Array:
        pooled = self.ops.pool(x, step, self.kind)
        return self.ops.normalize(pooled) if self.head is None else self.head(pooled)
