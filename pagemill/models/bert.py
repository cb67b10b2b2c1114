"""BERT (Devlin et al., 2018) and RoBERTa (Liu et al., 2019): encoders with learned positions.

A token sees its whole text. Each layer norms the sum of what came and what it adds; the three
embeddings of a token (what it is, where it is, which text of a pair it is in) are added and normed
before the first. Rerankers and classifiers end in a head that looks at the first token.
"""

from collections.abc import Mapping
from typing import Any

from pagemill.checkpoint import Family, Keys, Setting, Take, WeightSource
from pagemill.errors import Unsupported
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
        self.layers = [self.layer_type(card, ops, source, index) for index in source.layers]
        self.pooler = self.load_pooler(source)

    def load_pooler(self, source: WeightSource) -> Pooler:
        return Pooler(self.card, self.ops, source, "cls", "tanh")

    def load_positions(self, source: WeightSource) -> None:
        """The table of learned positions; the card may allow fewer than the network has."""
        count = source.keys.whole("context_length", self.card.context_length, _MOST_POSITIONS)
        matrix = source.matrix(("position_embd", count), k=self.card.hidden_size)
        self.positions = self.ops.upload(matrix, table=True)

    def new_kv(self, num_pages: int, page_size: int, num_slots: int = 0) -> Array:
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

    def begin(self, step: Step) -> Array:
        return self.embedding_norm(self.place(self.embed(step), step))

    def __call__(self, step: Step, kv: Array) -> Array:
        x = self.begin(step)
        for layer in self.layers:
            x = layer(x, step, kv)
        return self.end(x, step)

    def end(self, x: Array, step: Step) -> Array:
        return self.pooler(self.finish(x), step)


def keeps_nothing(card: ModelCard, keys: Keys) -> int:
    """Encoders add no keys and values to a cache."""
    return 0


def both(names: Mapping[str, str]) -> dict[str, str | Take]:
    """Weights and biases by the names of what they belong to."""
    endings = ("weight", "bias")
    return {f"{a}.{end}": f"{b}.{end}" for a, b in names.items() for end in endings}


def labels(config: Mapping[str, Any]) -> list[str]:
    """The names of a classifier's classes."""
    if config.get("problem_type") == "multi_label_classification":
        raise Unsupported(
            "config.json: 'problem_type': classes of which several may apply cannot be run"
        )
    if "id2label" not in config:
        return [f"LABEL_{index}" for index in range(2)]
    return [config["id2label"][str(index)] for index in range(len(config["id2label"]))]


def _tensors(prefix: str, **more: str) -> dict[str, str | Take]:
    at = f"{prefix}.encoder.layer.{{}}"
    return both(
        {
            "token_embd": f"{prefix}.embeddings.word_embeddings",
            "position_embd": f"{prefix}.embeddings.position_embeddings",
            "token_types": f"{prefix}.embeddings.token_type_embeddings",
            "token_embd_norm": f"{prefix}.embeddings.LayerNorm",
            "blk.{}.attn_q": f"{at}.attention.self.query",
            "blk.{}.attn_k": f"{at}.attention.self.key",
            "blk.{}.attn_v": f"{at}.attention.self.value",
            "blk.{}.attn_output": f"{at}.attention.output.dense",
            "blk.{}.attn_output_norm": f"{at}.attention.output.LayerNorm",
            "blk.{}.ffn_up": f"{at}.intermediate.dense",
            "blk.{}.ffn_down": f"{at}.output.dense",
            "blk.{}.layer_output_norm": f"{at}.output.LayerNorm",
            **more,
        }
    )


def _after_padding(table: Array, keys: Keys) -> Array:
    """RoBERTa counts positions from the padding id on; the rows before are never used."""
    count = keys.whole("context_length", 1, _MOST_POSITIONS)
    return table[-count:]


_DISTIL_LAYER = "distilbert.transformer.layer.{}"
_DISTIL = {
    "token_embd": "distilbert.embeddings.word_embeddings",
    "position_embd": "distilbert.embeddings.position_embeddings",
    "token_embd_norm": "distilbert.embeddings.LayerNorm",
    "blk.{}.attn_q": f"{_DISTIL_LAYER}.attention.q_lin",
    "blk.{}.attn_k": f"{_DISTIL_LAYER}.attention.k_lin",
    "blk.{}.attn_v": f"{_DISTIL_LAYER}.attention.v_lin",
    "blk.{}.attn_output": f"{_DISTIL_LAYER}.attention.out_lin",
    "blk.{}.attn_output_norm": f"{_DISTIL_LAYER}.sa_layer_norm",
    "blk.{}.ffn_up": f"{_DISTIL_LAYER}.ffn.lin1",
    "blk.{}.ffn_down": f"{_DISTIL_LAYER}.ffn.lin2",
    "blk.{}.layer_output_norm": f"{_DISTIL_LAYER}.output_layer_norm",
}
_DISTIL_CLASSES = {"cls": "pre_classifier", "cls.output": "classifier"}
_DISTIL_SETTINGS: Mapping[str, Setting] = {
    "block_count": "n_layers",
    "embedding_length": "dim",
    "feed_forward_length": "hidden_dim",
    "attention.head_count": "n_heads",
    "attention.layer_norm_epsilon": lambda config: 1e-12,
}
_SETTINGS: Mapping[str, Setting] = {
    "tokenizer.ggml.token_type_count": "type_vocab_size",
}
_CLASSES: Mapping[str, Setting] = {"classifier.output_labels": labels}
_ROBERTA_SETTINGS: Mapping[str, Setting] = {
    **_SETTINGS,
    "context_length": lambda config: config["max_position_embeddings"] - config["pad_token_id"] - 1,
}
_POSITIONS: dict[str, str | Take] = {
    "position_embd.weight": Take("roberta.embeddings.position_embeddings.weight", _after_padding)
}
# Parts that only training needs: for guessing words and the order of sentences.
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")
_UNUSED = (
    "position_ids",
    *("cls.predictions.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
    *(f"cls.predictions.transform.dense.{end}" for end in ("weight", "bias")),
    *(f"cls.predictions.transform.LayerNorm.{end}" for end in ("weight", "bias", "gamma", "beta")),
    *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    *("lm_head.bias", "lm_head.decoder.weight", "lm_head.decoder.bias"),
    *(f"lm_head.{part}.{end}" for part in ("dense", "layer_norm") for end in ("weight", "bias")),
    *("vocab_projector.weight", "vocab_projector.bias"),
    *(f"vocab_{part}.{end}" for part in ("transform", "layer_norm") for end in ("weight", "bias")),
)

MODEL = Bert
FAMILIES = (
    Family(
        "bert",
        ("BertModel", "BertForMaskedLM", "BertForPreTraining"),
        settings=_SETTINGS,
        tensors=_tensors("bert"),
        ignored=(*_UNUSED, *_POOLER),
        kv_elements=keeps_nothing,
        pooling="mean",
    ),
    Family(
        "bert",
        ("BertForSequenceClassification",),
        settings={**_SETTINGS, **_CLASSES},
        tensors=_tensors("bert", **{"cls": "bert.pooler.dense", "cls.output": "classifier"}),
        ignored=_UNUSED,
        kv_elements=keeps_nothing,
        pooling="rank",
    ),
    Family(
        "bert",
        ("RobertaModel", "RobertaForMaskedLM", "XLMRobertaModel", "XLMRobertaForMaskedLM"),
        settings=_ROBERTA_SETTINGS,
        tensors=_tensors("roberta") | _POSITIONS,
        ignored=(*_UNUSED, *_POOLER),
        kv_elements=keeps_nothing,
        pooling="mean",
    ),
    Family(
        "bert",
        ("RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"),
        settings={**_ROBERTA_SETTINGS, **_CLASSES},
        tensors=_tensors(
            "roberta", **{"cls": "classifier.dense", "cls.output": "classifier.out_proj"}
        )
        | _POSITIONS,
        ignored=_UNUSED,
        kv_elements=keeps_nothing,
        pooling="rank",
    ),
    Family(
        "bert",
        ("DistilBertModel", "DistilBertForMaskedLM"),
        settings=_DISTIL_SETTINGS,
        tensors=both(_DISTIL),
        ignored=_UNUSED,
        kv_elements=keeps_nothing,
        pooling="mean",
    ),
    Family(
        "bert",
        ("DistilBertForSequenceClassification",),
        settings={
            **_DISTIL_SETTINGS,
            **_CLASSES,
            "classifier.activation": lambda config: "relu",
        },
        tensors=both(_DISTIL | _DISTIL_CLASSES),
        ignored=_UNUSED,
        kv_elements=keeps_nothing,
        pooling="rank",
    ),
)
