"""Tensors of a GGUF file as networks ask for them.

Nothing is requantized: matrices are read-only views of the file, except where an architecture's
rows change order. Must not know how a network uses them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pagemill.checkpoint import Family, Keys, Part
from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.interface import Float32, Weight
from pagemill.types import ModelCard
from pagemill.weights import formats
from pagemill.weights.cursor import show
from pagemill.weights.gguf import TensorInfo
from pagemill.weights.gguf_parts import GGUFParts

_Item = TypeVar("_Item", bound=np.generic)


class GGUFSource:
    """`checkpoint.WeightSource` over an open file; `name` is the file's, for messages."""

    def __init__(
        self, file: GGUFParts, card: ModelCard, family: Family, keys: Keys, name: str
    ) -> None:
        self.keys = keys
        self._file, self._name = file, name
        self._taken: set[str] = set()
        orders = family.row_orders(card, keys, "gguf") if family.row_orders else {}
        self._row_orders: Mapping[str, NDArray[np.intp]] = {
            tensor: np.array(order, np.intp) for tensor, order in orders.items()
        }

    def has(self, name: str) -> bool:
        return self._full(name) in self._file.tensors

    def matrix(self, *parts: Part, k: int) -> Weight:
        infos = [self._info(name, (rows, k)) for name, rows in parts]
        return Weight(
            shape=(sum(rows for _, rows in parts), k),
            formats=tuple(info.format for info in infos),
            parts=tuple(self._ordered(info, self._rows(info)) for info in infos),
            rows=tuple(rows for _, rows in parts),
        )

    def experts(self, *parts: Part, k: int, count: int) -> Iterator[Weight]:
        infos = [self._info(name, (count, rows, k)) for name, rows in parts]
        stacks = [self._rows(info).reshape(count, info.shape[1], -1) for info in infos]
        for expert in range(count):
            yield Weight(
                shape=(sum(rows for _, rows in parts), k),
                formats=tuple(info.format for info in infos),
                parts=tuple(stack[expert] for stack in stacks),
                rows=tuple(rows for _, rows in parts),
            )

    def expert_vectors(self, *parts: Part, count: int) -> Iterator[Float32]:
        stacks = [self._values(name, count * size).reshape(count, size) for name, size in parts]
        for expert in range(count):
            yield np.concatenate([stack[expert] for stack in stacks])

    def vector(self, *parts: Part) -> Float32:
        return np.concatenate([self._values(name, size) for name, size in parts])

    def unused(self) -> Sequence[str]:
        return [tensor for tensor in self._file.tensors if tensor not in self._taken]

    def _full(self, name: str) -> str:
        if name in self._file.tensors or name.endswith((".weight", ".bias")):
            return name
        return f"{name}.weight"

    def _info(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        info = self._take(name)
        flat = (math.prod(info.shape[:-1]), info.shape[-1])
        if shape not in (info.shape, flat):
            raise BadModelFile(
                f"{self._name}: tensor {show(info.name)} has shape {info.shape}, not {shape}"
            )
        return info

    def _take(self, name: str) -> TensorInfo:
        name = self._full(name)
        info = self._file.tensors.get(name)
        if info is None:
            raise BadModelFile(f"{self._name}: tensor {show(name)} is missing")
        self._taken.add(name)
        return info

    def _values(self, name: str, size: int) -> Float32:
        """All elements of a small tensor, in order."""
        info = self._take(name)
        if info.format not in formats.names():
            raise Unsupported(
                f"{self._name}: tensor {show(info.name)}: format {info.format} cannot be unpacked; "
                f"there are {', '.join(formats.names())}"
            )
        if math.prod(info.shape) != size:
            raise BadModelFile(
                f"{self._name}: tensor {show(info.name)} has shape {info.shape}, "
                f"not {size} elements"
            )
        raw = self._file.data(info.name).reshape(1, -1)
        values: Float32 = formats.get(info.format).unpack(raw)[0]
        return self._ordered(info, values)

    def _rows(self, info: TensorInfo) -> NDArray[np.uint8]:
        """(rows of all matrices, bytes per row), as in the file."""
        return self._file.data(info.name).reshape(math.prod(info.shape[:-1]), -1)

    def _ordered(self, info: TensorInfo, rows: NDArray[_Item]) -> NDArray[_Item]:
        """In the order that networks expect: "blk.3.attn_q.weight" and its bias as "attn_q"."""
        order = self._row_orders.get(info.name.rpartition(".")[0].rpartition(".")[2])
        return rows if order is None else rows[order]
