"""From stored matrices to matrices on a device: which layout takes which format.

A format without a layout of its own is unpacked to the type that the model computes in. Must not
know: what a matrix is for.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pagemill.errors import Unsupported
from pagemill.ops.interface import Weight
from pagemill.ops.plain.layouts.dense import Dense, unpack_into
from pagemill.weights import formats


class Matrix(Protocol):
    """A matrix (N, K) on a device, in whatever layout."""

    n: int
    k: int

    @property
    def nbytes(self) -> int: ...

    def product(self, x: Tensor) -> Tensor:
        """x (T, K) times the matrix transposed -> (T, N), in x's type."""
        ...

    def rows(self, ids: Tensor) -> Tensor:
        """Rows ids (T,) -> (T, K), in the type that the model computes in."""
        ...


def upload(weight: Weight, device: torch.device, dtype: torch.dtype) -> Matrix:
    """Take a stored matrix over. Unsupported lists the formats that there are."""
    unknown = set(weight.formats) - set(formats.names())
    if unknown:
        raise Unsupported(
            f"the torch backends have no format {', '.join(sorted(unknown))}; "
            f"they have {', '.join(formats.names())}"
        )
    out = torch.empty(weight.shape, dtype=dtype, device=device)
    ends = torch.tensor(weight.rows).cumsum(0).tolist()
    for name, part, rows, end in zip(weight.formats, weight.parts, weight.rows, ends, strict=True):
        unpack_into(out[end - rows : end], name, part)
    return Dense(out)


def of_heads(weight: Matrix, heads: int, device: torch.device) -> Tensor:
    """(heads * N, K) as a tensor (heads, N, K)."""
    if isinstance(weight, Dense):
        return weight.weight.view(heads, -1, weight.k)
    return weight.rows(torch.arange(weight.n, device=device)).view(heads, -1, weight.k)
