"""Low-rank adapters over rows that each chose their own, or none: y += scale * (x A^T) B^T.

Rows are sorted by adapter, as tokens are by expert. The first product has few outputs (the rank)
and many inputs, so inputs are divided among programs, whose sums the second product adds up in one
order. Between the two lie a few float32 numbers a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.grouped import Routes, run_of_block, sorted_routes
from pagemill.ops.triton.variants import Variant

_ROWS, _DEPTH, _COLUMNS = 16, 64, 64
_SHARE = 512  # inputs of a program


def adapter_routes(ids: Tensor, adapters: int) -> Routes:
    """From each row's adapter (T,), -1 for none; rows without one come first, before all runs."""
    return sorted_routes(ids[:, None], adapters)


def shrink(x: Tensor, down: Tensor, routes: Routes) -> Tensor:
    """x (T, K) times the adapter's (A, rank, K), transposed -> (shares, T, rank) float32, to be
    added up; what is of rows without an adapter is undefined."""
    adapters, rank, k = down.shape
    shares = triton.cdiv(k, _SHARE)
    out = torch.empty((shares, x.shape[0], rank), dtype=torch.float32, device=x.device)
    if x.shape[0]:
        _shrink_kernel[shares, _blocks(x, adapters)](
            x.contiguous(), down.contiguous(), out, routes.order, routes.starts,
            adapters, x.shape[0], rank, k, **_constants(adapters, rank), DEPTH=_DEPTH, SHARE=_SHARE,
        )  # fmt: skip
    return out


def expand(y: Tensor, inner: Tensor, up: Tensor, scales: Tensor, routes: Routes) -> None:
    """Add to y (T, N), in place: the sum of `inner` over shares, times the adapter's (A, N, rank),
    transposed, times its scale (A,) float32."""
    adapters, n, rank = up.shape
    assert y.is_contiguous()
    if y.shape[0]:
        _expand_kernel[triton.cdiv(n, _COLUMNS), _blocks(y, adapters)](
            y, inner, up.contiguous(), scales, routes.order, routes.starts,
            adapters, y.shape[0], n, rank, inner.shape[0],
            **_constants(adapters, rank), COLUMNS=_COLUMNS,
        )  # fmt: skip


def _blocks(rows: Tensor, adapters: int) -> int:
    """Every run may end with a block that is not full."""
    num_rows = int(rows.shape[0])
    return -(-num_rows // _ROWS) + min(num_rows, adapters)


def _constants(adapters: int, rank: int) -> dict[str, int]:
    return {
        "MATRICES_BLOCK": triton.next_power_of_2(adapters),
        "RANK_BLOCK": max(16, triton.next_power_of_2(rank)),
        "ROWS": _ROWS,
    }


@triton.jit(do_not_specialize=["adapters", "num_rows"])
def _shrink_kernel(
    x, down, out, order, starts, adapters, num_rows, rank, k,
    MATRICES_BLOCK: tl.constexpr, RANK_BLOCK: tl.constexpr, ROWS: tl.constexpr,
    DEPTH: tl.constexpr, SHARE: tl.constexpr,
):  # fmt: skip
    adapter, start = run_of_block(starts, tl.program_id(1), adapters, ROWS, MATRICES_BLOCK)
    if adapter < adapters:
        place = start + tl.arange(0, ROWS)
        there = place < tl.load(starts + adapter + 1)
        row = tl.load(order + place, there, 0).to(tl.int64)
        r = tl.arange(0, RANK_BLOCK)
        first = tl.program_id(0) * SHARE
        y = tl.zeros((ROWS, RANK_BLOCK), tl.float32)
        for at in range(0, SHARE, DEPTH):
            i = first + at + tl.arange(0, DEPTH)
            a = tl.load(x + row[:, None] * k + i[None, :], there[:, None] & (i < k)[None, :], 0.0)
            right = down + (adapter.to(tl.int64) * rank + r[None, :]) * k + i[:, None]
            b = tl.load(right, (r < rank)[None, :] & (i < k)[:, None], 0.0)
            y = tl.dot(a, b, y, input_precision="ieee")
        target = out + (tl.program_id(0) * num_rows + row)[:, None] * rank + r[None, :]
        tl.store(target, y, there[:, None] & (r < rank)[None, :])


@triton.jit(do_not_specialize=["adapters", "num_rows", "shares"])
def _expand_kernel(
    y, inner, up, scales, order, starts, adapters, num_rows, n, rank, shares,
    MATRICES_BLOCK: tl.constexpr, RANK_BLOCK: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    adapter, start = run_of_block(starts, tl.program_id(1), adapters, ROWS, MATRICES_BLOCK)
    if adapter < adapters:
        place = start + tl.arange(0, ROWS)
        there = place < tl.load(starts + adapter + 1)
        row = tl.load(order + place, there, 0).to(tl.int64)
        r = tl.arange(0, RANK_BLOCK)
        low = there[:, None] & (r < rank)[None, :]
        a = tl.zeros((ROWS, RANK_BLOCK), tl.float32)
        for share in range(shares):
            a += tl.load(inner + (share * num_rows + row)[:, None] * rank + r[None, :], low, 0.0)
        column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        right = up + (adapter.to(tl.int64) * n + column[None, :]) * rank + r[:, None]
        b = tl.load(right, (column < n)[None, :] & (r < rank)[:, None], 0.0)
        added = tl.dot(a.to(b.dtype), b, input_precision="ieee") * tl.load(scales + adapter)
        target = y + row[:, None] * n + column[None, :]
        inside = there[:, None] & (column < n)[None, :]
        old = tl.load(target, inside, 0.0).to(tl.float32)
        tl.store(target, (old + added).to(y.dtype.element_ty), inside)


_TYPES = {"x": "*bf16", "down": "*bf16", "out": "*fp32", "order": "*i32", "starts": "*i32"}
_TYPES |= {"y": "*bf16", "inner": "*fp32", "up": "*bf16", "scales": "*fp32", "shares": "i32"}
_TYPES |= {"adapters": "i32", "num_rows": "i32", "rank": "i32:16", "k": "i32:16", "n": "i32:16"}


def _variant(name: str, kernel: object, **constants: int) -> Variant:
    names = kernel.arg_names  # type: ignore[attr-defined]
    types = {name: _TYPES[name] for name in names if name in _TYPES}
    return Variant(name, kernel, types, _constants(8, 16) | constants)


VARIANTS = (
    _variant("shrink, rank 16", _shrink_kernel, DEPTH=_DEPTH, SHARE=_SHARE),
    _variant("expand, rank 16", _expand_kernel, COLUMNS=_COLUMNS),
)
