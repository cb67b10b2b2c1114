"""From stored matrices to matrices on a device: which layout takes which format.

A format without a layout of its own is unpacked to the type that the model computes in. Must not
know: what a matrix is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pagemill.errors import Unsupported
from pagemill.ops.interface import Order, Weight
from pagemill.ops.plain.layouts.dense import Dense, unpack_into
from pagemill.ops.plain.layouts.quantized import read
from pagemill.ops.plain.layouts.sorted import Sorted
from pagemill.ops.plain.layouts.stacked import Stacked
from pagemill.ops.plain.layouts.table import has_layout
from pagemill.weights import formats

_Part = tuple[str, NDArray[np.uint8], int, Order | None]  # as `Weight.segments` has it


class Matrix(Protocol):
    """A matrix (N, K) on a device, in whatever layout."""

    @property
    def n(self) -> int: ...

    @property
    def k(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def product(self, x: Tensor) -> Tensor:
        """x (T, K) times the matrix transposed -> (T, N), in x's type."""
        ...

    def rows(self, ids: Tensor) -> Tensor:
        """Rows ids (T,) -> (T, K), in the type that the model computes in."""
        ...


def upload(
    weight: Weight, device: torch.device, dtype: torch.dtype, keep_codes: bool = True
) -> Matrix:
    """Take a stored matrix over. Unsupported lists the formats that there are. Without `keep_codes`
    all of it is unpacked: that takes more memory, and torch alone multiplies with it sooner."""
    unknown = set(weight.formats) - set(formats.names())
    if unknown:
        raise Unsupported(
            f"the torch backends have no format {', '.join(sorted(unknown))}; "
            f"they have {', '.join(formats.names())}"
        )
    made: list[Matrix] = []

    def layout(part: _Part) -> tuple[str, bytes]:
        if not keep_codes or not has_layout(part[0]):
            return "", b""
        return part[0], b"" if part[3] is None else part[3].tobytes()

    for (form, _), run in groupby(weight.segments, layout):
        same = list(run)
        stored = [part for _, part, _, _ in same]
        quantized: Any = read(form, stored, weight.shape[1], device, dtype) if form else None
        if quantized is not None and same[0][3] is not None:
            quantized = Sorted((quantized,), torch.tensor(same[0][3], device=device))
        made.append(quantized or _dense(same, weight.shape[1], device, dtype))
    return made[0] if len(made) == 1 else Stacked(made)


def _dense(parts: Sequence[_Part], k: int, device: torch.device, dtype: torch.dtype) -> Dense:
    out = torch.empty((sum(rows for _, _, rows, _ in parts), k), dtype=dtype, device=device)
    start = 0
    for name, part, rows, order in parts:
        into = out[start : start + rows]
        unpack_into(into, name, part)
        if order is not None:
            into.copy_(into[:, torch.from_numpy(np.argsort(order)).to(device)])
        start += rows
    return Dense(out)


def of_heads(weight: Matrix, heads: int, device: torch.device) -> Tensor:
    """(heads * N, K) as a tensor (heads, N, K)."""
    if isinstance(weight, Dense):
        return weight.weight.view(heads, -1, weight.k)
    return weight.rows(torch.arange(weight.n, device=device)).view(heads, -1, weight.k)
