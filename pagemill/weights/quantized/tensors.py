"""Checked reads of a folder's tensors, and matrices that are worked out of several of them.

Must not know: methods of quantization.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.interface import Float32, Grouping, Order
from pagemill.weights import formats
from pagemill.weights.cursor import show
from pagemill.weights.folder import Folder
from pagemill.weights.source import Rows

_WHOLE = {"I32": "<i4", "I64": "<i8", "U8": "|u1", "I8": "|i1"}
_REAL = ("F32", "F16", "BF16")
_SINGLE, _HALF = 4, 2  # bytes of a scale
Shape = tuple[int | None, ...]  # None: any


class Tensors:
    """The folder's tensors by name. BadModelFile names what is missing, or is not as stated."""

    def __init__(self, folder: Folder) -> None:
        self.name = folder.name
        self._folder = folder

    def names(self, ending: str) -> list[str]:
        """Of all tensors that end so: what is before it."""
        return [name.removesuffix(ending) for name in self._folder.tensors if name.endswith(ending)]

    def has(self, name: str) -> bool:
        return name in self._folder.tensors

    def grouping(self, scales: str, inputs: int, zeros: bool = False) -> Grouping:
        """Of a matrix, so many of whose inputs have a scale in that tensor."""
        return Grouping(inputs, _SINGLE if self.dtype(scales) == "F32" else _HALF, zeros)

    def dtype(self, name: str) -> str:
        return self._folder.tensors[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        info = self._folder.tensors.get(name)
        if info is None:
            raise BadModelFile(f"{self.name}: tensor {show(name)} is missing")
        return info.shape

    def check(self, name: str, shape: Shape, *dtypes: str) -> tuple[int, ...]:
        """The shape of a tensor that must be of one of the dtypes."""
        found = self.shape(name)
        fits = len(found) == len(shape) and all(
            want in (None, have) and have for want, have in zip(shape, found, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            comma = "," if len(shape) == 1 else ""
            raise BadModelFile(
                f"{self.name}: tensor {show(name)} has shape {found}, not ({wanted}{comma})"
            )
        if self.dtype(name) not in dtypes:
            raise BadModelFile(
                f"{self.name}: tensor {show(name)} is of {self.dtype(name)}, "
                f"not of {' or '.join(dtypes)}"
            )
        return found

    def bad(self, name: str, what: str) -> BadModelFile:
        return BadModelFile(f"{self.name}: tensor {show(name)}: {what}")

    def unsupported(self, name: str, what: str) -> Unsupported:
        return Unsupported(f"{self.name}: tensor {show(name)}: {what}")

    def wholes(self, name: str, shape: Shape, dtype: str = "I32") -> NDArray[Any]:
        """A tensor of whole numbers, as in the file."""
        found = self.check(name, shape, dtype)
        return self._folder.data(name).view(_WHOLE[dtype]).reshape(found)

    def raw(self, name: str, shape: Shape, *dtypes: str) -> NDArray[np.uint8]:
        """The bytes of a tensor with one byte for each element."""
        found = self.check(name, shape, *dtypes)
        return self._folder.data(name).reshape(found)

    def reals(self, name: str, shape: Shape, *more: str) -> Float32:
        """A tensor of real numbers, in single precision. All must be finite."""
        found = self.check(name, shape, *_REAL, *more)
        raw = self._folder.data(name).reshape(1, -1)
        values = formats.get(self.dtype(name)).unpack(raw).reshape(found)
        if not np.isfinite(values).all():
            raise self.bad(name, "holds what is no finite number")
        return values


@dataclass(frozen=True, slots=True)
class Sorted:
    """The same matrix with its inputs in another order."""

    order: Order  # of inputs
    make: Callable[[], Rows]


@dataclass(frozen=True, slots=True)
class Made:
    """A matrix (N, K), or one for each expert, that is worked out when it is read."""

    name: str
    format: str  # of the rows, or one whose rows are as long
    shape: tuple[int, ...]
    origins: Sequence[str]
    make: Callable[[int | None], Rows]  # of an expert, or all
    grouping: Grouping | None = None  # of scales, where the format has narrower ones
    sorted: Sorted | None = None

    @property
    def nbytes(self) -> int:
        """At most: some backends keep the nearest format of GGUF's."""
        rows, inputs = math.prod(self.shape[:-1]), self.shape[-1]
        most = formats.most_bytes_per_row(self.format, inputs)
        if self.sorted is not None:
            most = max(most, formats.bytes_per_row(formats.IN_ORDER, inputs))
        return rows * most

    def read(self, expert: int | None = None) -> Rows:
        return self.make(expert)

    def order(self, expert: int | None = None) -> Order | None:
        return None if self.sorted is None else self.sorted.order

    def read_sorted(self, expert: int | None = None) -> Rows:
        return self.make(expert) if self.sorted is None else self.sorted.make()
