"""Tensors of a checkpoint before they are read: as they lie in a file, stacked, or made of others.

Implementations of `source.Stored`. Must not know: names of tensors, settings, networks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemill.checkpoint import Keys
from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.interface import Array, Float32, Grouping, Order
from pagemill.weights import formats
from pagemill.weights.cursor import show
from pagemill.weights.source import AsStored, Rows, Stored

_REAL = ("F32", "F16", "BF16")
_NEAR = "Q8_0"


@dataclass(frozen=True, slots=True)
class Plain(AsStored):
    """A tensor as it lies in a file."""

    name: str
    format: str
    shape: tuple[int, ...]
    nbytes: int
    data: Callable[[str], NDArray[np.uint8]]  # the bytes of a tensor, by name
    grouping: None = None

    @property
    def origins(self) -> Sequence[str]:
        return (self.name,)

    def read(self, expert: int | None = None) -> Rows:
        if not self.nbytes:
            raise BadModelFile(f"tensor {show(self.name)} of shape {self.shape} is empty")
        rows = self.data(self.name).reshape(math.prod(self.shape[:-1]), -1)
        return self.format, rows if expert is None else _of_expert(rows, self.shape, expert)


@dataclass(frozen=True, slots=True)
class Stack:
    """Tensors of equal shape as one, the experts of a layer: (count, rows, K)."""

    parts: Sequence[Stored]

    @property
    def name(self) -> str:
        return self.parts[0].name

    @property
    def format(self) -> str:
        return self.parts[0].format

    @property
    def shape(self) -> tuple[int, ...]:
        for part in self.parts:
            if part.shape != self.parts[0].shape:
                raise BadModelFile(
                    f"tensor {show(part.name)} has shape {part.shape}, "
                    f"{show(self.name)} has {self.parts[0].shape}"
                )
        return (len(self.parts), *self.parts[0].shape)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def grouping(self) -> Grouping | None:
        return self.parts[0].grouping

    @property
    def origins(self) -> Sequence[str]:
        return [origin for part in self.parts for origin in part.origins]

    def read(self, expert: int | None = None) -> Rows:
        if expert is not None:
            return self.parts[expert].read()
        forms, rows = zip(*(part.read() for part in self.parts), strict=True)
        if len(set(forms)) > 1:
            raise Unsupported(f"tensor {show(self.name)} and its like have several formats")
        return forms[0], np.concatenate(rows)

    def order(self, expert: int | None = None) -> Order | None:
        return None if expert is None else self.parts[expert].order()

    def read_sorted(self, expert: int | None = None) -> Rows:
        return self.read() if expert is None else self.parts[expert].read_sorted()


class Changed(AsStored):
    """A tensor made from another by a function of float32 arrays (see `checkpoint.Take`)."""

    grouping: Grouping | None = None

    def __init__(self, of: Stored, change: Callable[[Array, Keys], Array], keys: Keys) -> None:
        self.name, self.format, self.origins = of.name, of.format, of.origins
        self._of, self._change, self._keys = of, change, keys
        # Zeros that take no memory show what becomes of the shape.
        self.shape: tuple[int, ...] = self._changed(np.broadcast_to(np.float32(0), of.shape)).shape
        self.nbytes = of.nbytes * math.prod(self.shape) // max(1, math.prod(of.shape))

    def read(self, expert: int | None = None) -> Rows:
        form, rows = self._of.read(expert)
        shape = self._of.shape if expert is None else (1, *self._of.shape[1:])
        values = self._changed(_unpacked(self.name, form, rows).reshape(shape))
        flat = np.ascontiguousarray(values).reshape(math.prod(values.shape[:-1]), -1)
        return _packed(flat, form)

    def _changed(self, values: Float32) -> Float32:
        try:
            changed: Float32 = self._change(values, self._keys)
        except (ValueError, IndexError, TypeError) as error:  # shapes that do not fit
            raise BadModelFile(
                f"tensor {show(self.name)} has shape {values.shape}, which does not fit: "
                f"{str(error)[:100]}"
            ) from None
        return changed


class Picked:
    """Some rows of another tensor, as they are stored (see `checkpoint.Pick`)."""

    def __init__(self, of: Stored, pick: Callable[[int, Keys], Sequence[int]], keys: Keys) -> None:
        self.name, self.format, self.origins = of.name, of.format, of.origins
        self.grouping = of.grouping
        self._of, self._rows = of, of.shape[-2] if len(of.shape) > 1 else 0
        self._picked = np.array(pick(self._rows, keys), np.intp)
        good = ((self._picked >= 0) & (self._picked < self._rows)).all() if self._rows else False
        if not good:
            raise BadModelFile(f"tensor {show(self.name)} of shape {of.shape} has too few rows")
        self.shape = (*of.shape[:-2], len(self._picked), of.shape[-1])
        self.nbytes = of.nbytes * len(self._picked) // self._rows

    def read(self, expert: int | None = None) -> Rows:
        return self._pick(*self._of.read(expert))

    def order(self, expert: int | None = None) -> Order | None:
        return self._of.order(expert)

    def read_sorted(self, expert: int | None = None) -> Rows:
        return self._pick(*self._of.read_sorted(expert))

    def _pick(self, form: str, rows: NDArray[np.uint8]) -> Rows:
        of_matrices = rows.reshape(-1, self._rows, rows.shape[-1])
        return form, of_matrices[:, self._picked].reshape(-1, rows.shape[-1])


def _of_expert(rows: NDArray[np.uint8], shape: tuple[int, ...], expert: int) -> NDArray[np.uint8]:
    size = len(rows) // shape[0]
    return rows[expert * size : (expert + 1) * size]


def _unpacked(name: str, form: str, rows: NDArray[np.uint8]) -> Float32:
    if form not in formats.names():
        raise Unsupported(
            f"tensor {show(name)}: format {form} cannot be unpacked; "
            f"there are {', '.join(formats.names())}"
        )
    return formats.get(form).unpack(rows)


def _packed(values: Float32, form: str) -> Rows:
    """In the given format where that loses nothing, else in float32; of a quantized matrix the
    nearest Q8_0."""
    if form in _REAL:
        packed = formats.get_packing(form).pack(values)
        if np.array_equal(formats.get(form).unpack(packed), values):
            return form, packed
    elif values.shape[1] % formats.get(_NEAR).BLOCK_SIZE == 0:
        return _NEAR, formats.get_packing(_NEAR).pack(values)
    return "F32", formats.get_packing("F32").pack(values)
