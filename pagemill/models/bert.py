"""BERT (Devlin et al., 2018) and RoBERTa (Liu et al., 2019): encoders with learned positions.

A token sees its whole text. Each layer norms the sum of what came and what it adds; the three
embeddings of a token (what it is, where it is, which text of a pair it is in) are added and normed
before the first. Rerankers and classifiers end in a head that looks at the first token.
"""

from typing import Any

from pagemill.checkpoint import Family, Keys, WeightSource
from pagemill.models.blocks import PreNorm
from pagemill.models.layers import FeedForward, LayerNorm
from pagemill.models.pooling import DenseAttention, Pooler
from pagemill.ops.interface import Array, Ops, Step
from pagemill.types import ModelCard

_MOST_POSITIONS = 1 << 24
_MOST_TYPES = 1 << 8


class BertAttention(DenseAttention):
    def rotation(self, card: ModelCard, source: WeightSource) -> None:
        return None


class BertLayer(PreNorm):
    """Norms of sums: norm(x + attention(x)), and the same with the feed-forward network."""

    attention_type: Any = BertAttention
    ffn_type: Any = FeedForward
    norm_type: Any = LayerNorm

    def load_norms(self, card: ModelCard, ops: Ops, source: WeightSource, at: str) -> None:
        self.attention_norm = self.norm_type(card, ops, source, f"{at}.attn_output_norm")
        self.ffn_norm = self.norm_type(card, ops, source, f"{at}.layer_output_norm")

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        x = self.attention_norm(x + self.attention(x, step, kv))
        return self.ffn_norm(x + self.ffn(x))


class TokenTypes:
    """Adds the embedding of the text of a pair that a token is in."""

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        count = source.keys.whole("tokenizer.ggml.token_type_count", 1, _MOST_TYPES, 1)
        self.ops, self.one = ops, count == 1
        if self.one:  # nothing to choose: it is a constant
            self.table = ops.vector(source.vector(("token_types", card.hidden_size)))
        else:
            matrix = source.matrix(("token_types", count), k=card.hidden_size)
            self.table = ops.upload(matrix, table=True)

    def __call__(self, x: Array, step: Step) -> Array:
        if self.one:
            return self.ops.bias(x, self.table)
        return x + self.ops.embed(step.token_types, self.table)


class Bert:
    """The network: `model(step, kv)` is one vector for each of the step's rows."""

    layer_type: type[PreNorm] = BertLayer

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource) -> None:
        """Takes the weights over, one matrix at a time. BadModelFile names what is missing."""
        self.card, self.ops = card, ops
        table = ("token_embd", card.vocab_size)
        self.embedding = ops.upload(source.matrix(table, k=card.hidden_size), table=True)
        self.types = TokenTypes(card, ops, source) if source.has("token_types") else None
        self.load_positions(source)
        self.embedding_norm = LayerNorm(card, ops, source, "token_embd_norm")
        self.layers = [self.layer_type(card, ops, source, index) for index in range(card.layers)]
        self.pooler = self.load_pooler(source)

    def load_pooler(self, source: WeightSource) -> Pooler:
        return Pooler(self.card, self.ops, source, "cls", "tanh")

    def load_positions(self, source: WeightSource) -> None:
        """The table of learned positions; the card may allow fewer than the network has."""
        count = source.keys.whole("context_length", self.card.context_length, _MOST_POSITIONS)
        matrix = source.matrix(("position_embd", count), k=self.card.hidden_size)
        self.positions = self.ops.upload(matrix, table=True)

    def new_kv(self, num_pages: int, page_size: int) -> Array:
        """Nothing is kept from one step to the next."""
        return None

    def embed(self, step: Step) -> Array:
        """What the tokens are, and which text of a pair they are in."""
        x = self.ops.embed(step.token_ids, self.embedding)
        return x if self.types is None else self.types(x, step)

    def place(self, x: Array, step: Step) -> Array:
        """Where the tokens are."""
        return x + self.ops.embed(step.positions, self.positions)

    def finish(self, x: Array) -> Array:
        """What follows the last layer."""
        return x

    def __call__(self, step: Step, kv: Array) -> Array:
        x = self.embedding_norm(self.place(self.embed(step), step))
        for layer in self.layers:
            x = layer(x, step, kv)
        return self.pooler(self.finish(x), step)


def keeps_nothing(card: ModelCard, keys: Keys) -> int:
    """Encoders add no keys and values to a cache."""
    return 0


MODEL = Bert
FAMILIES = (Family("bert", kv_elements=keeps_nothing, pooling="mean"),)
