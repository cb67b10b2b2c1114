"""Products of tokens with the matrix that each of them chose: experts, and adapters.

Tokens are sorted by matrix, on the device, and each run of tokens is cut into blocks; a program
finds out which run its block is of. So one launch does what would be one product an expert, and
nobody waits to hear how many tokens each has: torch must, as its products take sizes from the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.variants import Variant

_COMBINED = 1024  # columns of a program that adds up


@dataclass(frozen=True)
class Routes:
    """Who goes where. Route r is choice r % top_k of token r // top_k."""

    order: Tensor  # (M,) int32: routes, sorted by matrix
    starts: Tensor  # (E + 1,) int32: where each matrix's run of them begins
    places: Tensor  # (M,) int32: where in `order` each route is
    top_k: int

    def blocks(self, rows: int) -> int:
        """How many blocks of so many rows hold all runs, whatever their lengths: each may end with
        one that is not full."""
        routes, matrices = len(self.order), len(self.starts) - 1
        return -(-routes // rows) + min(routes, matrices)


@dataclass(frozen=True)
class Tile:
    """What a program computes: rows of a run and outputs, in steps of `depth` inputs."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def tile_for(routes: int, matrices: int, element_size: int) -> Tile:
    """Decode steps have few rows a matrix and read weights: narrow tiles, many programs, deep
    loads. In every tile inputs are summed in the same order."""
    each = routes / matrices
    wide = 64 * 2 // element_size
    if each <= 16:
        return Tile(16, 64, 2 * wide, 4, 4)
    if each <= 64:
        return Tile(64, 128, wide, 4, 4)
    return Tile(128, 128, wide, 8, 4)


def sorted_routes(chosen: Tensor, matrices: int) -> Routes:
    """From choices (T, top_k) of matrices, which stay on the device."""
    ordered, order = chosen.flatten().sort(stable=True)
    edges = torch.arange(matrices + 1, dtype=ordered.dtype, device=ordered.device)
    starts = torch.searchsorted(ordered, edges, out_int32=True)
    places = torch.empty_like(order, dtype=torch.int32)
    places[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
    return Routes(order.int(), starts, places, chosen.shape[1])


def grouped_product(
    x: Tensor, weights: Tensor, routes: Routes, bias: Tensor | None = None, *, gather: bool
) -> Tensor:
    """A row for each place in `routes.order`: x times the matrix of that route, transposed. With
    `gather` x (T, K) are tokens, else x (M, K) are rows in that order already. weights (E, N, K),
    bias (E, N) float32 -> (M, N)."""
    matrices, n, k = weights.shape
    num_routes = len(routes.order)
    out = torch.empty((num_routes, n), dtype=x.dtype, device=x.device)
    if not num_routes:
        return out
    tile = tile_for(num_routes, matrices, x.element_size())
    _product_kernel[triton.cdiv(n, tile.columns), routes.blocks(tile.rows)](
        x.contiguous(), weights.contiguous(), bias, out, routes.order, routes.starts,
        matrices, n, k,
        **_constants(tile, matrices, bias is not None), TOP_K=routes.top_k if gather else 0,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def combined(y: Tensor, routes: Routes, weights: Tensor) -> Tensor:
    """Rows (M, N) of routes times weights (T, top_k), added for each token in the order of choice
    -> (T, N)."""
    tokens, n = weights.shape[0], y.shape[1]
    out = torch.empty((tokens, n), dtype=y.dtype, device=y.device)
    block = min(_COMBINED, triton.next_power_of_2(n))
    if tokens:
        _combine_kernel[tokens, triton.cdiv(n, block)](
            y, routes.places, weights.contiguous(), out, n, TOP_K=routes.top_k, BLOCK=block
        )
    return out


def _constants(tile: Tile, matrices: int, biased: bool) -> dict[str, object]:
    return {
        "BIASED": biased,
        "MATRICES_BLOCK": triton.next_power_of_2(matrices),
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
    }


@triton.jit
def run_of_block(starts, block, matrices, ROWS: tl.constexpr, MATRICES_BLOCK: tl.constexpr):
    """Of all runs cut into blocks of ROWS: the matrix of a block (`matrices`, where there are not
    as many blocks), and the first place that the block has."""
    i = tl.arange(0, MATRICES_BLOCK)
    first = tl.load(starts + i, i < matrices, 0)
    count = tl.load(starts + i + 1, i < matrices, 0) - first
    ends = tl.cumsum(tl.cdiv(count, ROWS), 0)
    earlier = (ends <= block) & (i < matrices)
    before = tl.max(tl.where(earlier, ends, 0), 0)
    matrix = tl.sum(earlier.to(tl.int32), 0)
    start = tl.sum(tl.where(i == matrix, first, 0), 0)
    return matrix, start + (block - before) * ROWS


@triton.jit
def row_of_place(order, place, there, TOP_K: tl.constexpr):
    """Which rows of x are multiplied at some places: those of tokens, or (TOP_K 0) their own."""
    if TOP_K:
        return tl.load(order + place, there, 0) // TOP_K
    return place


@triton.jit(do_not_specialize=["matrices"])
def _product_kernel(
    x, weights, bias, out, order, starts, matrices, n, k,
    TOP_K: tl.constexpr, BIASED: tl.constexpr, MATRICES_BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    matrix, start = run_of_block(starts, tl.program_id(1), matrices, ROWS, MATRICES_BLOCK)
    if matrix < matrices:
        place = start + tl.arange(0, ROWS)
        there = place < tl.load(starts + matrix + 1)
        row = row_of_place(order, place, there, TOP_K)
        column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        left = x + row.to(tl.int64)[:, None] * k + depth[None, :]
        right = weights + matrix.to(tl.int64) * n * k + column[None, :].to(tl.int64) * k
        right += depth[:, None]
        y = tl.zeros((ROWS, COLUMNS), tl.float32)
        for at in range(0, k, DEPTH):
            inside = at + depth < k
            a = tl.load(left + at, there[:, None] & inside[None, :], 0.0)
            b = tl.load(right + at, inside[:, None] & (column < n)[None, :], 0.0)
            y = tl.dot(a, b, y, input_precision="ieee")
        if BIASED:
            y += tl.load(bias + matrix * n + column, column < n, 0.0)[None, :]
        target = out + place.to(tl.int64)[:, None] * n + column[None, :]
        tl.store(target, y.to(out.dtype.element_ty), there[:, None] & (column < n)[None, :])


@triton.jit
def _combine_kernel(y, places, weights, out, n, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for choice in range(TOP_K):
        place = tl.load(places + token * TOP_K + choice).to(tl.int64)
        weight = tl.load(weights + token * TOP_K + choice)
        total += weight * tl.load(y + place * n + column, column < n, 0.0).to(tl.float32)
    tl.store(out + token * n + column, total.to(out.dtype.element_ty), column < n)


def _variant(name: str, routes: int, *, gather: bool) -> Variant:
    tile = tile_for(routes, 128, 2)
    types = dict.fromkeys(("x", "weights", "out"), "*bf16") | {"order": "*i32", "starts": "*i32"}
    types |= {"matrices": "i32", "n": "i32:16", "k": "i32:16"}
    constants = _constants(tile, 128, False) | {"bias": None, "TOP_K": 8 if gather else 0}
    return Variant(
        name, _product_kernel, types, constants, num_warps=tile.warps, num_stages=tile.stages
    )


VARIANTS = (
    _variant("few rows a matrix, gathered", 512, gather=True),
    _variant("some rows a matrix", 4096, gather=False),
    _variant("many rows a matrix, gathered", 65536, gather=True),
    Variant(
        "eight choices added",
        _combine_kernel,
        {"y": "*bf16", "places": "*i32", "weights": "*fp32", "out": "*bf16", "n": "i32:16"},
        {"TOP_K": 8, "BLOCK": _COMBINED},
    ),
)
