"""From a model file's metadata to a `ModelCard` that cannot be wrong.

Knows the keys of GGUF and the ranges a network can have. Each value is read with its type; a key
that is missing, of another type or out of range is one BadModelFile that names it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pagemill.errors import BadModelFile, Unsupported
from pagemill.types import ModelCard
from pagemill.weights.cursor import StringArray, show
from pagemill.weights.gguf import TensorInfo

# Far above any known network, low enough that products of two of them stay below 2^63.
_MOST_LAYERS = 1 << 12
_MOST_HEADS = 1 << 16
_MOST_WIDTH = 1 << 24  # hidden, ffn and vocabulary sizes, context length
_MATRIX_DIMS = 2


class Keys:
    """Typed reads of metadata. `name` is the file's, for messages."""

    def __init__(self, metadata: Mapping[str, Any], name: str) -> None:
        self._metadata = metadata
        self._name = name

    def has(self, key: str) -> bool:
        return key in self._metadata

    def text(self, key: str, default: str | None = None) -> str:
        """A string. Without `default` the key must be there."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.bad(key, f"is {_kind(value)}, not a string")
        return value

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """An integer of any width in least .. most."""
        value = self._get(key, default)
        if type(value) is not int:  # bool is a kind of int for isinstance
            raise self.bad(key, f"is {_kind(value)}, not a whole number")
        if not least <= value <= most:
            raise self.bad(key, f"is {value}, not in {least} to {most}")
        return value

    def real(self, key: str, most: float, default: float | None = None) -> float:
        """A finite number above 0 and at most `most`."""
        value = self._get(key, default)
        if not isinstance(value, float):
            raise self.bad(key, f"is {_kind(value)}, not a floating-point number")
        if not (math.isfinite(value) and 0 < value <= most):
            raise self.bad(key, f"is {value}, not above 0 and at most {most}")
        return value

    def strings(self, key: str) -> Sequence[str]:
        value = self._get(key, None)
        if not isinstance(value, StringArray):
            raise self.bad(key, f"is {_kind(value)}, not an array of strings")
        return value

    def bad(self, key: str, what: str) -> BadModelFile:
        return BadModelFile(f"{self._name}: key {show(key)}: {what}")

    def unsupported(self, key: str, what: str) -> Unsupported:
        return Unsupported(f"{self._name}: key {show(key)}: {what}")

    def _get(self, key: str, default: Any) -> Any:
        value = self._metadata.get(key, default)
        if value is None:
            raise self.bad(key, "is missing")
        return value


def _kind(value: object) -> str:
    """What the file has in place of what was expected, in a reader's words."""
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (StringArray, memoryview)):
        return "an array"
    return f"{value} ({type(value).__name__})"


def read_card(
    metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo], name: str
) -> ModelCard:
    """The card of a model file called `name`. BadModelFile, or Unsupported for what we know of but
    cannot run."""
    keys = Keys(metadata, name)
    arch = keys.text("general.architecture")
    hidden = keys.whole(f"{arch}.embedding_length", 1, _MOST_WIDTH)
    heads = keys.whole(f"{arch}.attention.head_count", 1, _MOST_HEADS)
    kv_heads = keys.whole(f"{arch}.attention.head_count_kv", 1, heads, heads)
    if heads % kv_heads:
        raise keys.bad(
            f"{arch}.attention.head_count_kv", f"is {kv_heads}, which does not divide {heads} heads"
        )
    head_dim = _head_dim(keys, arch, hidden, heads)
    rope_dim = keys.whole(f"{arch}.rope.dimension_count", 2, head_dim, head_dim)
    if rope_dim % 2:
        raise keys.bad(f"{arch}.rope.dimension_count", f"is {rope_dim}, which is odd")
    _refuse_variants(keys, arch)
    sizes = Counter[str]()
    for info in tensors.values():
        if len(info.shape) == _MATRIX_DIMS:
            sizes[info.format] += math.prod(info.shape)
    return ModelCard(
        name=keys.text("general.name", name.strip("'").removesuffix(".gguf")),
        architecture=arch,
        quantization=sizes.most_common(1)[0][0] if sizes else "",
        parameters=sum(math.prod(info.shape) for info in tensors.values()),
        weights_bytes=sum(info.nbytes for info in tensors.values()),
        context_length=keys.whole(f"{arch}.context_length", 1, _MOST_WIDTH),
        vocab_size=_vocab_size(keys, arch, tensors),
        layers=keys.whole(f"{arch}.block_count", 1, _MOST_LAYERS),
        hidden_size=hidden,
        ffn_size=keys.whole(f"{arch}.feed_forward_length", 1, _MOST_WIDTH),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope_dim=rope_dim,
        rope_theta=keys.real(f"{arch}.rope.freq_base", 1e12, 10000.0),
        rms_eps=keys.real(f"{arch}.attention.layer_norm_rms_epsilon", 1.0),
        tied_embeddings="output.weight" not in tensors,
        license=keys.text("general.license", ""),
    )


def _head_dim(keys: Keys, arch: str, hidden: int, heads: int) -> int:
    key = f"{arch}.attention.key_length"
    if not keys.has(key) and hidden % heads:
        raise keys.bad(
            f"{arch}.attention.head_count", f"is {heads}, which does not divide width {hidden}"
        )
    head_dim = keys.whole(key, 2, _MOST_HEADS, hidden // heads)
    value_dim = keys.whole(f"{arch}.attention.value_length", 2, _MOST_HEADS, head_dim)
    if value_dim != head_dim:
        raise keys.unsupported(
            f"{arch}.attention.value_length",
            f"is {value_dim}; heads whose keys have another length, {head_dim}, cannot be run",
        )
    return head_dim


def _vocab_size(keys: Keys, arch: str, tensors: Mapping[str, TensorInfo]) -> int:
    """Rows of the embedding; the key and the tokenizer, where there, must agree."""
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != _MATRIX_DIMS:
        raise keys.bad("token_embd.weight", "no such matrix")
    rows = embedding.shape[0]
    if keys.has("tokenizer.ggml.tokens"):
        num_tokens = len(keys.strings("tokenizer.ggml.tokens"))
        if num_tokens != rows:
            raise keys.bad(
                "tokenizer.ggml.tokens", f"has {num_tokens} tokens, the embedding {rows} rows"
            )
    claimed = keys.whole(f"{arch}.vocab_size", 1, _MOST_WIDTH, rows)
    if claimed != rows:
        raise keys.bad(f"{arch}.vocab_size", f"is {claimed}, the embedding has {rows} rows")
    return rows


def _refuse_variants(keys: Keys, arch: str) -> None:
    """Settings that would change the result, were they passed over in silence."""
    if keys.whole(f"{arch}.expert_count", 0, _MOST_HEADS, 0):
        raise keys.unsupported(f"{arch}.expert_count", "mixtures of experts cannot be run")
    scaling = keys.text(f"{arch}.rope.scaling.type", "none")
    if scaling != "none":
        raise keys.unsupported(
            f"{arch}.rope.scaling.type", f"{show(scaling)} cannot be run, only 'none'"
        )
