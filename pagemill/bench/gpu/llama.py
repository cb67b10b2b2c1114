"""A Llama of any shape with weights that nobody trained: in memory, or as a file to be served."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pagemill import models
from pagemill.bench.gpu.random_weights import stored, weight
from pagemill.bench.gpu.sizes import Shape
from pagemill.bench.prompts import WORDS
from pagemill.checkpoint import Keys, Part, rows_of
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Array, Float32, Ops, Weight
from pagemill.types import ModelCard
from pagemill.weights import formats
from pagemill.weights.card import read_card
from pagemill.weights.gguf_writer import GGUFWriter, NewTensor, encode
from pagemill.weights.keys import MetadataKeys

_CONTEXT = 8192
_ARCHITECTURE = "llama"
_SPECIALS = ("<|begin|>", "<|end|>")
_WRITTEN_ROWS = 4096  # at once
_CONTROL, _NORMAL = 3, 1  # kinds of tokens


@dataclass(frozen=True, slots=True)
class _Tensor:
    format: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * formats.bytes_per_row(self.format, self.shape[-1])


def tensors(shape: Shape, form: str) -> dict[str, _Tensor]:
    """By GGUF's names. Matrices of the layers are stored in `form`, the others in BF16."""
    q, kv = shape.heads * shape.dim, shape.kv_heads * shape.dim
    hidden, ffn = shape.hidden, shape.ffn
    of_layer = {
        "attn_q": (q, hidden),
        "attn_k": (kv, hidden),
        "attn_v": (kv, hidden),
        "attn_output": (hidden, q),
        "ffn_gate": (ffn, hidden),
        "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }
    found = {"token_embd.weight": _Tensor("BF16", (shape.vocab, hidden))}
    if not shape.tied:
        found["output.weight"] = _Tensor("BF16", (shape.vocab, hidden))
    found["output_norm.weight"] = _Tensor("F32", (hidden,))
    for layer in range(shape.layers):
        for name, size in of_layer.items():
            found[f"blk.{layer}.{name}.weight"] = _Tensor(form, size)
        for name in ("attn_norm", "ffn_norm"):
            found[f"blk.{layer}.{name}.weight"] = _Tensor("F32", (hidden,))
    return found


def settings(shape: Shape) -> dict[str, tuple[str, Any]]:
    """Metadata, each with its GGUF type."""
    whole = {
        "block_count": shape.layers,
        "context_length": _CONTEXT,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.ffn,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.dim,
        "attention.value_length": shape.dim,
        "rope.dimension_count": shape.dim,
    }
    real = {"rope.freq_base": 500000.0, "attention.layer_norm_rms_epsilon": 1e-5}
    found: dict[str, tuple[str, Any]] = {"general.architecture": ("string", _ARCHITECTURE)}
    found |= {f"{_ARCHITECTURE}.{key}": ("uint32", value) for key, value in whole.items()}
    return found | {f"{_ARCHITECTURE}.{key}": ("float32", value) for key, value in real.items()}


class Untrained:
    """`checkpoint.WeightSource` of a shape. Matrices of one size are one matrix."""

    def __init__(self, shape: Shape, form: str) -> None:
        self._tensors = tensors(shape, form)
        metadata = {key: value for key, (_, value) in settings(shape).items()}
        general = MetadataKeys(metadata, shape.name)
        family = models.family(_ARCHITECTURE)
        self.card: ModelCard = read_card(general, self._tensors, shape.name, family)
        self.keys: Keys = general.of(_ARCHITECTURE)
        self.layers: Sequence[int] = range(shape.layers)
        self._made: dict[tuple[str, int, int], Weight] = {}

    def has(self, name: str) -> bool:
        return name in self._tensors or f"{name}.weight" in self._tensors

    def matrix(self, *parts: Part, k: int) -> Weight:
        form = self._tensors[f"{parts[0][0]}.weight"].format
        key = (form, sum(rows_of(part) for part in parts), k)
        if key not in self._made:
            self._made[key] = weight(*key)
        return self._made[key]

    def experts(self, *parts: Part, k: int, count: int) -> Iterator[Weight]:
        raise NotImplementedError("a Llama without experts")

    def expert_vectors(self, *parts: Part, count: int) -> Iterator[Float32]:
        raise NotImplementedError("a Llama without experts")

    def vector(self, *parts: Part) -> Float32:
        return np.ones(sum(rows_of(part) for part in parts), np.float32)

    def unused(self) -> Sequence[str]:
        return ()


class CopyingOps(CudaOps):
    """The GPU backend, but of each matrix that is uploaded twice the device makes a copy of its
    own: sixteen gigabytes need not come from the host."""

    def __init__(self, device: str, dtype: torch.dtype, kv_dtype: str = "auto") -> None:
        super().__init__(device, dtype, kv_dtype)
        self._firsts: dict[int, tuple[Weight, Array]] = {}
        self.product_bytes = 0  # of all but tables: what each step reads

    def upload(self, weight: Weight, table: bool = False) -> Any:
        known = self._firsts.get(id(weight))
        if known is None:
            matrix = super().upload(weight, table)
            self._firsts[id(weight)] = (weight, matrix)
        else:
            matrix = copy.deepcopy(known[1])
        self.product_bytes += 0 if table else matrix.nbytes
        return matrix


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network on a device."""

    card: ModelCard
    ops: CopyingOps
    network: models.Model
    read_bytes: int  # of weights, in each step

    @property
    def layer_parameters(self) -> int:
        """What each token is multiplied with, without the head."""
        return self.card.parameters - (1 if self.card.tied_embeddings else 2) * (
            self.card.vocab_size * self.card.hidden_size
        )


def load(shape: Shape, form: str, device: torch.device) -> Loaded:
    """Made on the device, but for the first matrix of each size."""
    source = Untrained(shape, form)
    ops = CopyingOps(str(device), torch.bfloat16)
    network = models.build(source.card, cast(Ops, ops), source)
    head = 2 * shape.vocab * shape.hidden if shape.tied else 0
    return Loaded(source.card, ops, network, ops.product_bytes + head)


def write(shape: Shape, path: Path) -> None:
    """The same as a GGUF file in BF16, with a tokenizer that knows the words of our prompts."""
    found = tensors(shape, "BF16")
    values = {key: encode(kind, value) for key, (kind, value) in settings(shape).items()}
    listed = [NewTensor(name, tensor.format, tensor.shape) for name, tensor in found.items()]
    with GGUFWriter(path, values | dict(_tokenizer(shape.vocab)), listed) as file:
        for tensor in found.values():
            if len(tensor.shape) == 1:
                file.write(np.ones(tensor.shape, "<f4").view(np.uint8))
                continue
            rows, k = tensor.shape
            for start in range(0, rows, _WRITTEN_ROWS):
                count = min(_WRITTEN_ROWS, rows - start)
                file.write(stored(tensor.format, count, k).reshape(-1))


def _tokenizer(vocab: int) -> Mapping[str, bytes]:
    """Bytes, then words with a blank before them and what they are merged from, then filling."""
    letters = _byte_letters()
    tokens = [*_SPECIALS, *letters]
    merges: list[str] = []
    for word in WORDS:
        start = letters[ord(" ")]
        for letter in word:
            if start + letter not in tokens and len(tokens) < vocab:
                merges.append(f"{start} {letter}")
                tokens.append(start + letter)
            start += letter
    tokens += [f"<|{i}|>" for i in range(vocab - len(tokens))]
    kinds = [_CONTROL] * len(_SPECIALS) + [_NORMAL] * (vocab - len(_SPECIALS))
    return {
        "tokenizer.ggml.model": encode("string", "gpt2"),
        "tokenizer.ggml.pre": encode("string", "smollm"),
        "tokenizer.ggml.tokens": encode("[string]", tokens),
        "tokenizer.ggml.token_type": encode("[int32]", kinds),
        "tokenizer.ggml.merges": encode("[string]", merges),
        "tokenizer.ggml.bos_token_id": encode("uint32", 0),
        "tokenizer.ggml.eos_token_id": encode("uint32", 1),
        "tokenizer.ggml.add_bos_token": encode("bool", False),
    }


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE (GPT-2) writes for each of 256 bytes."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    places = {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [places.get(byte, chr(byte)) for byte in range(256)]
