"""What the bytes of a stored matrix mean: one module per format, found by its name.

A format stores each row by itself, as blocks of BLOCK_SIZE elements in BLOCK_BYTES bytes. Modules
here are the definition that every kernel is held to, so they are written for reading, in numpy. A
module is imported when its format is first asked for.
Must not know: files, matrices as parts of a network, and anything else of ours.
"""

from importlib import import_module
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray


class Format(Protocol):
    """What each module of this package offers that is named after a format."""

    @property
    def NAME(self) -> str: ...

    @property
    def BLOCK_SIZE(self) -> int: ...

    @property
    def BLOCK_BYTES(self) -> int: ...

    def unpack(self, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(rows, bytes per row) -> (rows, K), exactly what the bytes mean."""
        ...


class PackingFormat(Format, Protocol):
    """A format that can also be written."""

    def pack(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(rows, K) -> (rows, bytes per row), rounded to nearest; K is whole blocks."""
        ...


class WithoutKernel(Format, Protocol):
    """A format of quantized folders that kernels need not know."""

    @property
    def NEAR(self) -> str:
        """The nearest format that GGUF has."""
        ...

    def as_gguf(self, raw: NDArray[np.uint8]) -> tuple[str, NDArray[np.uint8]]:
        """Rows as the nearest format that GGUF has: its name, and (rows, bytes per row) in it."""
        ...


_PACKING = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "IQ4_NL", "MXFP4", "TQ1_0", "TQ2_0", "FP8",
)  # fmt: skip
_READ_ONLY = (
    "IQ4_XS", "NVFP4", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_0",
    "Q1_0", "INT4", "INT8", "NF4", "FP4",
)  # fmt: skip
_WITHOUT_KERNEL = ("INT4", "INT8", "FP8")  # what quantized folders mean, exactly
IN_ORDER: Final = "Q8_0"  # what in_order gives


def names() -> tuple[str, ...]:
    """Names of all formats that can be unpacked."""
    return _PACKING + _READ_ONLY


def packing_names() -> tuple[str, ...]:
    """Names of all formats that can be packed."""
    return _PACKING


def get(name: str) -> Format:
    """The format called `name`; KeyError lists what exists."""
    if name not in names():
        raise KeyError(f"format {name!r} is unknown; there are {', '.join(names())}")
    return cast(Format, import_module(f"{__name__}.{name.lower()}"))


def get_packing(name: str) -> PackingFormat:
    """The format called `name`, to write it; KeyError lists what can be written."""
    if name not in _PACKING:
        raise KeyError(f"format {name!r} cannot be written; there are {', '.join(_PACKING)}")
    return cast(PackingFormat, import_module(f"{__name__}.{name.lower()}"))


def as_gguf(name: str, raw: NDArray[np.uint8]) -> tuple[str, NDArray[np.uint8]]:
    """Rows that kernels can take: those of a format without one as the nearest that GGUF has, the
    rest as they are."""
    if name not in _WITHOUT_KERNEL:
        return name, raw
    return cast(WithoutKernel, get(name)).as_gguf(raw)


def in_order(
    name: str, raw: NDArray[np.uint8], order: NDArray[np.int32]
) -> tuple[str, NDArray[np.uint8]]:
    """Rows whose column j is input order[j], as the nearest Q8_0 with inputs as they come."""
    values = get(name).unpack(raw)
    out = np.empty_like(values)
    out[:, order] = values
    return IN_ORDER, get_packing(IN_ORDER).pack(out)


def bytes_per_row(name: str, k: int) -> int:
    """Bytes that a row of `k` elements takes; ValueError when `k` is not whole blocks."""
    form = get(name)
    if k % form.BLOCK_SIZE:
        raise ValueError(f"a row of {k} elements is not whole {name} blocks of {form.BLOCK_SIZE}")
    return k // form.BLOCK_SIZE * form.BLOCK_BYTES


def most_bytes_per_row(name: str, k: int) -> int:
    """The same, or what the row takes in the format that `as_gguf` gives, if that is more."""
    forms = [name]
    if name in _WITHOUT_KERNEL:
        forms.append(cast(WithoutKernel, get(name)).NEAR)
    return max(bytes_per_row(form, k) for form in forms)
