"""Opens a model file, whatever its format, as a checkpoint: a card, metadata and weights by name.

The one place that knows in which order a file keeps its rows. It must not know how a network uses
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.interface import Float32, Weight, WeightSource
from pagemill.types import ModelCard
from pagemill.weights import formats
from pagemill.weights.card import read_card
from pagemill.weights.cursor import show
from pagemill.weights.gguf import GGUFFile, TensorInfo

# Architectures whose files pair neighbouring elements of q and k for rotary positions, and whose
# complete list of tensors `_shapes` gives.
_LLAMA = frozenset({"llama"})
_MATRIX_DIMS = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open model file. `metadata` holds its tokenizer and chat template."""

    card: ModelCard
    metadata: Mapping[str, Any]
    source: WeightSource


def open_model(path: str | Path) -> Checkpoint:
    """Read everything but the weights, which stay in the file until they are asked for.

    BadModelFile says what breaks the format, Unsupported what we know of but cannot run.
    """
    file = GGUFFile.open(path)
    name = show(Path(path).name)
    card = read_card(file.metadata, file.tensors, name)
    if card.architecture in _LLAMA:
        _check_tensors(card, file.tensors, name)
    return Checkpoint(card, file.metadata, GGUFSource(file, card, name))


class GGUFSource:
    """Weights of a GGUF file, as `ops.interface.WeightSource` has them. Nothing is requantized:
    matrices are read-only views of the file, except q and k where their rows change order.
    """

    def __init__(self, file: GGUFFile, card: ModelCard, name: str) -> None:
        self._file = file
        self._name = name
        self._row_orders: Mapping[str, NDArray[np.intp]] = MappingProxyType({})
        if card.architecture in _LLAMA:
            self._row_orders = MappingProxyType(
                {
                    "attn_q": _half_split(card.heads, card.head_dim, card.rope_dim),
                    "attn_k": _half_split(card.kv_heads, card.head_dim, card.rope_dim),
                }
            )

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self._file.tensors

    def matrix(self, *names: str) -> Weight:
        infos = [self._info(name, _MATRIX_DIMS) for name in names]
        widths = {info.shape[1] for info in infos}
        if len(widths) != 1:
            shapes = ", ".join(f"{info.name} {info.shape}" for info in infos)
            raise BadModelFile(f"{self._name}: rows differ in length: {shapes}")
        return Weight(
            shape=(sum(info.shape[0] for info in infos), infos[0].shape[1]),
            formats=tuple(info.format for info in infos),
            parts=tuple(self._rows(name, info) for name, info in zip(names, infos, strict=True)),
            rows=tuple(info.shape[0] for info in infos),
        )

    def vector(self, name: str) -> Float32:
        info = self._info(name, 1)
        if info.format not in formats.names():
            raise Unsupported(
                f"{self._name}: tensor {show(info.name)}: format {info.format} cannot be unpacked; "
                f"there are {', '.join(formats.names())}"
            )
        values: Float32 = formats.get(info.format).unpack(self._file.data(info.name)[None])[0]
        return values

    def _info(self, name: str, num_dims: int) -> TensorInfo:
        info = self._file.tensors.get(f"{name}.weight")
        if info is None:
            raise BadModelFile(f"{self._name}: tensor {show(name + '.weight')} is missing")
        if len(info.shape) != num_dims:
            raise BadModelFile(
                f"{self._name}: tensor {show(info.name)} has {len(info.shape)} dimensions, "
                f"not {num_dims}"
            )
        return info

    def _rows(self, name: str, info: TensorInfo) -> NDArray[np.uint8]:
        """(rows, bytes per row), in the order that models expect."""
        rows = self._file.data(info.name).reshape(info.shape[0], -1)
        order = self._row_orders.get(name.rpartition(".")[2])
        return rows if order is None else rows[order]


def _half_split(heads: int, head_dim: int, rope_dim: int) -> NDArray[np.intp]:
    """Where each row of half-split rotary order lies in a file that pairs neighbours.

    The file rotates elements 2i and 2i + 1 of a head together, `Rope` i and i + rope_dim / 2.
    Elements past rope_dim are not rotated and stay where they are.
    """
    of_head = np.concatenate(
        [np.arange(0, rope_dim, 2), np.arange(1, rope_dim, 2), np.arange(rope_dim, head_dim)]
    )
    order: NDArray[np.intp] = np.arange(heads)[:, None] * head_dim + of_head
    return order.reshape(-1)


def _shapes(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama file, without those it may leave out."""
    hidden, q_rows, kv_rows = (
        card.hidden_size,
        card.heads * card.head_dim,
        card.kv_heads * card.head_dim,
    )
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "attn_q": (q_rows, hidden),
        "attn_k": (kv_rows, hidden),
        "attn_v": (kv_rows, hidden),
        "attn_output": (hidden, q_rows),
        "ffn_norm": (hidden,),
        "ffn_gate": (card.ffn_size, hidden),
        "ffn_up": (card.ffn_size, hidden),
        "ffn_down": (hidden, card.ffn_size),
    }
    shapes = {"token_embd.weight": (card.vocab_size, hidden), "output_norm.weight": (hidden,)}
    for index in range(card.layers):
        shapes |= {f"blk.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def _check_tensors(card: ModelCard, tensors: Mapping[str, TensorInfo], name: str) -> None:
    """Refuse a file that lacks a tensor, has one of the wrong shape, or one that nobody would use:
    a bias passed over in silence is a wrong answer."""
    required = _shapes(card)
    optional = {
        "output.weight": (card.vocab_size, card.hidden_size),
        "rope_freqs.weight": (card.rope_dim // 2,),
    }
    for tensor in required:
        if tensor not in tensors:
            raise BadModelFile(f"{name}: tensor {show(tensor)} is missing")
    expected = required | optional
    for tensor, info in tensors.items():
        if tensor not in expected:
            raise Unsupported(
                f"{name}: tensor {show(tensor)} has no place in architecture {card.architecture!r}"
            )
        if info.shape != expected[tensor]:
            raise BadModelFile(
                f"{name}: tensor {show(tensor)} has shape {info.shape}, not {expected[tensor]}"
            )
