"""What the bytes of a stored matrix mean: one module per format, found by its name.

A format stores each row by itself, as blocks of BLOCK_SIZE elements in BLOCK_BYTES bytes. Modules
here are the definition that every kernel is held to, so they are written for reading, in numpy.
Must not know: files, matrices as parts of a network, and anything else of ours.
"""

from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pagemill.weights.formats import bf16, f16, f32, q4_0, q4_1, q8_0


class Format(Protocol):
    """What each module of this package offers."""

    @property
    def NAME(self) -> str: ...

    @property
    def BLOCK_SIZE(self) -> int: ...

    @property
    def BLOCK_BYTES(self) -> int: ...

    def unpack(self, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(rows, bytes per row) -> (rows, K), exactly what the bytes mean."""
        ...

    def pack(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(rows, K) -> (rows, bytes per row), rounded to nearest; K is whole blocks."""
        ...


_MODULES: tuple[Format, ...] = (f32, f16, bf16, q8_0, q4_0, q4_1)
_BY_NAME = MappingProxyType({module.NAME: module for module in _MODULES})


def names() -> tuple[str, ...]:
    """Names of all formats that can be unpacked."""
    return tuple(_BY_NAME)


def get(name: str) -> Format:
    """The format called `name`; KeyError lists what exists."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise KeyError(f"format {name!r} is unknown; there are {', '.join(_BY_NAME)}") from None


def bytes_per_row(name: str, k: int) -> int:
    """Bytes that a row of `k` elements takes; ValueError when `k` is not whole blocks."""
    form = get(name)
    if k % form.BLOCK_SIZE:
        raise ValueError(f"a row of {k} elements is not whole {name} blocks of {form.BLOCK_SIZE}")
    return k // form.BLOCK_SIZE * form.BLOCK_BYTES
