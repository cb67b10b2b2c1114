"""From a model file's metadata to a `ModelCard` that cannot be wrong.

Knows the keys of GGUF, which other readers translate theirs into, and the ranges a network can
have. Each value is read with its type; a key that is missing, of another type or out of range is
one BadModelFile that names it.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from pagemill.checkpoint import Family
from pagemill.types import ModelCard
from pagemill.weights.keys import MetadataKeys

# Far above any known network, low enough that products of two of them stay below 2^63.
_MOST_LAYERS = 1 << 12
_MOST_HEADS = 1 << 16
_MOST_WIDTH = 1 << 24  # hidden, ffn and vocabulary sizes, context length
_MOST_LABELS = 1 << 16
_MATRIX_DIMS = 2
_NORM_EPS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
POOLINGS = ("", "mean", "cls", "last", "rank")  # by GGUF's number: "<architecture>.pooling_type"


class TensorFacts(Protocol):
    """What a card is made from besides settings: a tensor of the file, under GGUF's name."""

    @property
    def format(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...


def read_card(
    general: MetadataKeys, tensors: Mapping[str, TensorFacts], name: str, family: Family
) -> ModelCard:
    """The card of a model file called `name`, with all its settings. BadModelFile, or Unsupported
    for what we know of but cannot run."""
    arch = general.text("general.architecture")
    keys = general.of(arch)
    layers = keys.whole("block_count", 1, _MOST_LAYERS)
    hidden = keys.whole("embedding_length", 1, _MOST_WIDTH)
    heads = max(keys.wholes("attention.head_count", layers, 0, _MOST_HEADS))
    if not heads:
        raise keys.bad("attention.head_count", f"is 0, not in 1 to {_MOST_HEADS}")
    kv_heads = max(keys.wholes("attention.head_count_kv", layers, 0, heads, heads))
    if not kv_heads:
        raise keys.bad("attention.head_count_kv", f"is 0, not in 1 to {heads}")
    if heads % kv_heads:
        raise keys.bad(
            "attention.head_count_kv", f"is {kv_heads}, which does not divide {heads} heads"
        )
    head_dim = _head_dim(keys, hidden, heads)
    rope_dim = keys.whole("rope.dimension_count", 2, head_dim, head_dim)
    if rope_dim % 2:
        raise keys.bad("rope.dimension_count", f"is {rope_dim}, which is odd")
    sizes = Counter[str]()
    for info in tensors.values():
        if len(info.shape) >= _MATRIX_DIMS:
            sizes[info.format] += math.prod(info.shape)
    experts = keys.whole("expert_count", 0, _MOST_HEADS, 0)
    dense = keys.wholes("feed_forward_length", layers, 0, _MOST_WIDTH, 0 if experts else None)
    if not max(dense) and not experts:
        raise keys.bad("feed_forward_length", f"is 0, not in 1 to {_MOST_WIDTH}")
    card = ModelCard(
        name=general.text("general.name", name.strip("'").removesuffix(".gguf")),
        architecture=arch,
        quantization=sizes.most_common(1)[0][0] if sizes else "",
        parameters=sum(math.prod(info.shape) for info in tensors.values()),
        weights_bytes=sum(info.nbytes for info in tensors.values()),
        context_length=_context_length(keys),
        vocab_size=_vocab_size(general, keys, tensors),
        layers=layers,
        hidden_size=hidden,
        ffn_size=max(dense),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope_dim=rope_dim,
        rope_theta=keys.real("rope.freq_base", 1e12, 10000.0),
        norm_eps=keys.real(next(filter(keys.has, _NORM_EPS), _NORM_EPS[0]), 1.0),
        tied_embeddings="output.weight" not in tensors,
        license=general.text("general.license", ""),
        experts=experts,
        experts_used=keys.whole("expert_used_count", 0, _MOST_HEADS, 0),
        pooling=_pooling(keys, family),
        labels=_labels(keys),
    )
    kv_elements = layers * 2 * kv_heads * head_dim
    if family.kv_elements is not None:
        kv_elements = family.kv_elements(card, keys)
    state_elements = family.state_elements(card, keys) if family.state_elements else 0
    return replace(card, kv_elements=kv_elements, state_elements=state_elements)


def _context_length(keys: MetadataKeys) -> int:
    """What the network allows, or less, where it was trained to embed shorter texts."""
    longest = keys.whole("context_length", 1, _MOST_WIDTH)
    return min(longest, keys.whole("sentence_length", 1, _MOST_WIDTH, longest))


def _head_dim(keys: MetadataKeys, hidden: int, heads: int) -> int:
    key = "attention.key_length"
    if not keys.has(key) and hidden % heads:
        raise keys.bad("attention.head_count", f"is {heads}, which does not divide width {hidden}")
    return keys.whole(key, 2, _MOST_HEADS, hidden // heads)


def _vocab_size(
    general: MetadataKeys, keys: MetadataKeys, tensors: Mapping[str, TensorFacts]
) -> int:
    """Rows of the embedding; the key and the tokenizer, where there, must agree."""
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != _MATRIX_DIMS:
        raise general.bad("token_embd.weight", "no such matrix")
    rows = embedding.shape[0]
    if general.has("tokenizer.ggml.tokens"):
        num_tokens = len(general.strings("tokenizer.ggml.tokens"))
        if num_tokens != rows:
            raise general.bad(
                "tokenizer.ggml.tokens", f"has {num_tokens} tokens, the embedding {rows} rows"
            )
    claimed = keys.whole("vocab_size", 1, _MOST_WIDTH, rows)
    if claimed != rows:
        raise keys.bad("vocab_size", f"is {claimed}, the embedding has {rows} rows")
    return rows


def _pooling(keys: MetadataKeys, family: Family) -> str:
    kind = keys.whole("pooling_type", 0, len(POOLINGS) - 1, 0)
    return POOLINGS[kind] or family.pooling


def _labels(keys: MetadataKeys) -> tuple[str, ...]:
    """Of a classifier."""
    key = "classifier.output_labels"
    if not keys.has(key):
        return ()
    labels = keys.strings(key)
    if not 1 <= len(labels) <= _MOST_LABELS:
        raise keys.bad(key, f"has {len(labels)} labels, not 1 to {_MOST_LABELS}")
    return tuple(labels)
