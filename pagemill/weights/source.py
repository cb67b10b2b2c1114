"""A checkpoint's tensors as networks ask for them: checked, in the order of rows they expect.

Works on tensors under GGUF's names, whatever file they come from; must not know how a file stores
them.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pagemill.checkpoint import Family, Keys, Origin, Part, rows_of
from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.interface import Float32, Grouping, Order, Weight
from pagemill.types import ModelCard
from pagemill.weights import formats
from pagemill.weights.cursor import show

_OF_LAYER = re.compile(r"blk\.(\d{1,9})\.")

Rows = tuple[str, NDArray[np.uint8]]  # a format and (rows, bytes per row) in it
_Item = TypeVar("_Item", bound=np.generic)


class Stored(Protocol):
    """A tensor of a checkpoint: what it is at once, its bytes when they are asked for."""

    @property
    def name(self) -> str:
        """As the file calls it, for messages."""
        ...

    @property
    def format(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def grouping(self) -> Grouping | None:
        """What shares a scale, where that is known and not as the format has it."""
        ...

    @property
    def origins(self) -> Sequence[str]:
        """The tensors of the file that it is made from."""
        ...

    def read(self, expert: int | None = None) -> Rows:
        """All rows, or of a tensor (count, rows, K) those of one expert."""
        ...

    def order(self, expert: int | None = None) -> Order | None:
        """The inputs in the order that `read_sorted` gives them in, if it is another."""
        ...

    def read_sorted(self, expert: int | None = None) -> Rows:
        """As `read`; where inputs of one group are not neighbours, sorted by group: that is exact,
        and needs no more bits."""
        ...


class AsStored:
    """A tensor whose inputs come in their order."""

    __slots__ = ()

    def order(self, expert: int | None = None) -> Order | None:
        return None

    def read_sorted(self: Stored, expert: int | None = None) -> Rows:
        return self.read(expert)


_Named = tuple[str, Stored]


@dataclass(frozen=True, slots=True)
class Names:
    """What things are called, for messages."""

    file: str
    others: Sequence[str] = ()  # tensors of the file that have no name of GGUF's
    absent: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class TensorSource:
    """`checkpoint.WeightSource` over tensors by GGUF's name."""

    def __init__(
        self,
        tensors: Mapping[str, Stored],
        card: ModelCard,
        family: Family,
        keys: Keys,
        origin: Origin,
        names: Names,
    ) -> None:
        self.keys, self.layers = keys, range(card.layers)
        self._tensors, self._name, self._names = tensors, names.file, names
        self._used: set[str] = set()
        orders = family.row_orders(card, keys, origin) if family.row_orders else {}
        self._row_orders: Mapping[str, NDArray[np.intp]] = {
            tensor: np.array(order, np.intp) for tensor, order in orders.items()
        }

    def has(self, name: str) -> bool:
        return self._full(name) in self._tensors

    def matrix(self, *parts: Part, k: int) -> Weight:
        found = [self._shaped(part[0], (rows_of(part), k)) for part in parts]
        return self._weight(parts, k, found, None)

    def experts(self, *parts: Part, k: int, count: int) -> Iterator[Weight]:
        found = [self._shaped(part[0], (count, rows_of(part), k)) for part in parts]
        for expert in range(count):
            yield self._weight(parts, k, found, expert)

    def expert_vectors(self, *parts: Part, count: int) -> Iterator[Float32]:
        stacks = [self._values(part[0], count * rows_of(part)).reshape(count, -1) for part in parts]
        for expert in range(count):
            yield np.concatenate([stack[expert] for stack in stacks])

    def vector(self, *parts: Part) -> Float32:
        return np.concatenate([self._values(part[0], rows_of(part)) for part in parts])

    def outline(self) -> "TensorSource":
        """The same tensors without their contents, for planning: nothing of the file is read.
        Elements of vectors are one, bytes of matrices zero."""
        return _OutlineSource(self)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor in the file; () where it is not."""
        tensor = self._tensors.get(self._full(name))
        return () if tensor is None else tensor.shape

    def pass_over(self, begin: str) -> None:
        """Count tensors whose names begin so as asked for: another process has them."""
        for name, tensor in self._tensors.items():
            if name.startswith(begin):
                self._used.update(tensor.origins)

    def unused(self) -> Sequence[str]:
        origins = {origin: None for tensor in self._tensors.values() for origin in tensor.origins}
        return [name for name in (*origins, *self._names.others) if name not in self._used]

    def _full(self, name: str) -> str:
        if name in self._tensors or name.endswith((".weight", ".bias")):
            return name
        return f"{name}.weight"

    def _weight(
        self, parts: Sequence[Part], k: int, found: Sequence[_Named], expert: int | None
    ) -> Weight:
        counts = tuple(map(rows_of, parts))
        read = [(name, tensor.read_sorted(expert)) for name, tensor in found]
        for count, (_, (form, rows)) in zip(counts, read, strict=True):
            if form in formats.names():  # kernels trust these sizes
                assert rows.shape == (count, formats.bytes_per_row(form, k)), form
        return Weight(
            shape=(sum(counts), k),
            formats=tuple(form for _, (form, _) in read),
            parts=tuple(self._ordered(name, rows) for name, (_, rows) in read),
            rows=counts,
            layer=_layer_of(parts[0][0]),
            orders=tuple(tensor.order(expert) for _, tensor in found),
        )

    def _shaped(self, name: str, shape: tuple[int, ...]) -> tuple[str, Stored]:
        name, tensor = self._take(name)
        flat = (math.prod(tensor.shape[:-1]), tensor.shape[-1])
        if shape not in (tensor.shape, flat):
            raise BadModelFile(
                f"{self._name}: tensor {show(tensor.name)} has shape {tensor.shape}, not {shape}"
            )
        return name, tensor

    def _take(self, name: str) -> tuple[str, Stored]:
        name = self._full(name)
        tensor = self._tensors.get(name)
        if tensor is None:
            called = self._names.absent.get(name, name)
            raise BadModelFile(f"{self._name}: tensor {show(called)} is missing")
        self._used.update(tensor.origins)
        return name, tensor

    def _values(self, name: str, size: int) -> Float32:
        """All elements of a small tensor, in order."""
        name, tensor = self._sized(name, size)
        form, rows = tensor.read()
        if form not in formats.names():
            raise Unsupported(
                f"{self._name}: tensor {show(tensor.name)}: format {form} cannot be unpacked; "
                f"there are {', '.join(formats.names())}"
            )
        values: Float32 = formats.get(form).unpack(rows.reshape(1, -1))[0]
        return self._ordered(name, values)

    def _sized(self, name: str, size: int) -> tuple[str, Stored]:
        name, tensor = self._take(name)
        if math.prod(tensor.shape) != size:
            raise BadModelFile(
                f"{self._name}: tensor {show(tensor.name)} has shape {tensor.shape}, "
                f"not {size} elements"
            )
        return name, tensor

    def _ordered(self, name: str, rows: NDArray[_Item]) -> NDArray[_Item]:
        """In the order that networks expect: "blk.3.attn_q.weight" and its bias as "attn_q"."""
        order = self._row_orders.get(name.rpartition(".")[0].rpartition(".")[2])
        return rows if order is None else rows[order]


class _OutlineSource(TensorSource):
    def __init__(self, of: TensorSource) -> None:
        self.keys, self.layers = of.keys, of.layers
        self._tensors = {name: _Outline(tensor) for name, tensor in of._tensors.items()}
        self._name, self._names = of._name, of._names
        self._used = set()
        self._row_orders = {}  # orders copy

    def _values(self, name: str, size: int) -> Float32:
        self._sized(name, size)
        return np.ones(size, np.float32)

    def _weight(
        self, parts: Sequence[Part], k: int, found: Sequence[_Named], expert: int | None
    ) -> Weight:
        weight = super()._weight(parts, k, found, expert)
        return replace(weight, groupings=tuple(tensor.grouping for _, tensor in found))


@dataclass(frozen=True, slots=True)
class _Outline(AsStored):
    """A tensor of which only the header counts."""

    of: Stored

    @property
    def name(self) -> str:
        return self.of.name

    @property
    def format(self) -> str:
        return self.of.format

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of.shape

    @property
    def nbytes(self) -> int:
        return self.of.nbytes

    @property
    def grouping(self) -> Grouping | None:
        return self.of.grouping

    @property
    def origins(self) -> Sequence[str]:
        return self.of.origins

    def read(self, expert: int | None = None) -> Rows:
        rows = math.prod(self.shape[:-1] if expert is None else self.shape[1:-1])
        row_bytes = self.nbytes // max(1, math.prod(self.shape[:-1]))
        if self.format in formats.names():  # of a quantized folder not what the file has
            try:
                row_bytes = formats.bytes_per_row(self.format, self.shape[-1])
            except ValueError as error:
                raise BadModelFile(f"tensor {show(self.name)}: {error}") from None
        return self.format, np.broadcast_to(np.uint8(0), (rows, row_bytes))

    def order(self, expert: int | None = None) -> Order | None:
        return self.of.order(expert)


def _layer_of(name: str) -> int | None:
    found = _OF_LAYER.match(name)
    return int(found[1]) if found else None
