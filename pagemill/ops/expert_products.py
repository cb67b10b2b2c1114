"""The matrices of a layer's experts as one, for one launch a product, whoever chose whom.

Experts keep what they had, as parts of the whole. Chooses by layout and card. Must not know: how a
kernel works. It is imported where Triton is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pagemill.ops.plain.layouts import together
from pagemill.ops.plain.layouts.coded import Coded
from pagemill.ops.plain.layouts.dense import Dense
from pagemill.ops.plain.layouts.float8 import Float8
from pagemill.ops.plain.layouts.int8 import Int8
from pagemill.ops.plain.layouts.sorted import Sorted
from pagemill.ops.plain.layouts.stacked import Stacked
from pagemill.ops.products import Multiplied, multiplies_float8
from pagemill.ops.triton import grouped, grouped_coded, grouped_eight_bits
from pagemill.ops.triton.grouped import Routes
from pagemill.ops.triton.round_rows import round_float8, round_int8


class Experts(Protocol):
    """Matrices (N, K), one for each expert."""

    @property
    def n(self) -> int: ...

    def product(
        self, x: Tensor, routes: Routes, bias: Tensor | None = None, *, gather: bool
    ) -> Tensor:
        """As `grouped.grouped_product`: (M, N), a row for each place in `routes.order`. With
        `gather` x (T, K) are tokens, else rows (M, K) in that order. `bias` (E, N)."""
        ...


def as_one(matrices: Sequence[Any], device: torch.device) -> Experts | None:
    """Matrices of one shape; None where their layouts are not alike."""
    bare = [one.matrix if isinstance(one, Multiplied) else one for one in matrices]
    kind, n = type(bare[0]), bare[0].n
    if any(type(one) is not kind for one in bare):
        return None
    if kind is Dense:
        return _Dense(n, together.dense(bare))
    if kind is Coded:
        codes = together.coded(bare)
        return None if codes is None else _Coded(n, codes)
    if kind is Int8:
        return _Int8(n, *together.int8(bare))
    if kind is Float8:
        return _Float8(n, *together.float8(bare), bare[0].block, multiplies_float8(device))
    if kind is Sorted:
        inner = as_one([one.parts[0] for one in bare], device)
        orders = torch.stack([one.order.long() for one in bare])
        return None if inner is None else _Sorted(n, inner, orders)
    return _parts(n, bare, device)


def _parts(n: int, matrices: Sequence[Stacked], device: torch.device) -> Experts | None:
    if len({tuple(part.n for part in matrix.parts) for matrix in matrices}) > 1:
        return None
    of_all = zip(*(matrix.parts for matrix in matrices), strict=True)
    parts = [as_one(of_one, device) for of_one in of_all]
    found = [part for part in parts if part is not None]
    return _Parts(n, tuple(found)) if len(found) == len(parts) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Dense:
    n: int
    weights: Tensor  # (E, N, K)

    def product(
        self, x: Tensor, routes: Routes, bias: Tensor | None = None, *, gather: bool
    ) -> Tensor:
        return grouped.grouped_product(x, self.weights, routes, bias, gather=gather)


@dataclass(frozen=True, slots=True, eq=False)
class _Coded:
    n: int
    codes: Any  # a `Coded` whose tensors have one more axis, the first: of experts

    def product(
        self, x: Tensor, routes: Routes, bias: Tensor | None = None, *, gather: bool
    ) -> Tensor:
        return grouped_coded.product(x, self.codes, routes, bias, gather=gather)


@dataclass(frozen=True, slots=True, eq=False)
class _Int8:
    n: int
    codes: Tensor  # (E, N, K)
    scales: Tensor  # (E, N)

    def product(
        self, x: Tensor, routes: Routes, bias: Tensor | None = None, *, gather: bool
    ) -> Tensor:
        codes, scales = round_int8(x)
        return grouped_eight_bits.product(
            codes, scales, self.codes, self.scales[:, None], x.dtype, routes, bias, gather=gather
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Float8:
    n: int
    codes: Tensor  # (E, N, K)
    scales: Tensor  # (E, blocks, N)
    block: int
    rounds: bool  # activations, too: tensor cores multiply such numbers

    def product(
        self, x: Tensor, routes: Routes, bias: Tensor | None = None, *, gather: bool
    ) -> Tensor:
        codes, rows, scales = self.codes, x, None
        if self.rounds:
            rows, scales = round_float8(x, self.block)
        else:
            codes = codes.view(torch.uint8)
        return grouped_eight_bits.product(
            rows, scales, codes, self.scales, x.dtype, routes, bias, gather=gather
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """Column j of expert e is input orders[e, j]."""

    n: int
    inner: Experts
    orders: Tensor  # (E, K)

    def product(
        self, x: Tensor, routes: Routes, bias: Tensor | None = None, *, gather: bool
    ) -> Tensor:
        if gather:
            x = x[routes.order // routes.top_k]
        places = torch.arange(len(x), dtype=torch.int32, device=x.device)
        expert = torch.searchsorted(routes.starts[1:], places, right=True)
        return self.inner.product(x.gather(1, self.orders[expert]), routes, bias, gather=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Rows after rows, as `Stacked` has them."""

    n: int
    parts: tuple[Experts, ...]

    def product(
        self, x: Tensor, routes: Routes, bias: Tensor | None = None, *, gather: bool
    ) -> Tensor:
        biases: Sequence[Tensor | None] = [None] * len(self.parts)
        if bias is not None:
            biases = [part.contiguous() for part in bias.split([one.n for one in self.parts], 1)]
        return torch.cat(
            [
                part.product(x, routes, of_part, gather=gather)
                for part, of_part in zip(self.parts, biases, strict=True)
            ],
            1,
        )
