"""Products of tokens with the eight-bit matrix that each of them chose: experts of signed bytes, or
of eight-bit floats (E4M3).

`grouped.py` tells how tokens find their matrix, `eight_bits.py` how bytes are multiplied; this is
both. Where tensor cores have no eight-bit floats, activations stay as they are and codes become
numbers like them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.eight_bits import DEPTH, Tiles, sums_of_tile, tiles_of
from pagemill.ops.triton.grouped import Routes, row_of_place, run_of_block
from pagemill.ops.triton.variants import Variant


def product(
    x: Tensor,
    x_scales: Tensor | None,
    weights: Tensor,
    scales: Tensor,
    dtype: torch.dtype,
    routes: Routes,
    bias: Tensor | None = None,
    *,
    gather: bool,
    tiles: Tiles | None = None,
) -> Tensor:
    """As `grouped.grouped_product`, in `dtype`, of x under scales (rows of x, blocks) and weights
    (E, N, K) under scales (E, blocks, N): one block, or one for each 128 inputs of eight-bit
    floats. Without scales x has other numbers, and weights are bytes, of E4M3."""
    matrices, n, k = weights.shape
    blocks, num_routes = scales.shape[1], len(routes.order)
    out = torch.empty((num_routes, n), dtype=dtype, device=x.device)
    if not num_routes:
        return out
    tiles = tiles or tiles_for(num_routes, matrices, n, blocks > 1)
    _product[triton.cdiv(n, tiles.outputs), routes.blocks(tiles.rows)](
        x.contiguous(), x_scales, weights, scales, bias, out, routes.order, routes.starts,
        matrices, n, k, blocks,
        top_k=routes.top_k if gather else 0,
        matrices_block=triton.next_power_of_2(matrices),
        in_blocks=blocks > 1,
        depth=DEPTH,
        block_n=tiles.outputs,
        block_m=tiles.rows,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )  # fmt: skip
    return out


def tiles_for(routes: int, matrices: int, n: int, in_blocks: bool) -> Tiles:
    """Those of a product of as many rows as a matrix has on average, whose inputs are not cut."""
    return tiles_of(triton.cdiv(routes, matrices), n, 1, 0, in_blocks)


@triton.jit(do_not_specialize=["matrices", "blocks"])
def _product(
    x, x_scales, weights, scales, bias, out, order, starts,
    matrices, n, k, blocks,
    top_k: tl.constexpr, matrices_block: tl.constexpr,
    in_blocks: tl.constexpr, depth: tl.constexpr, block_n: tl.constexpr, block_m: tl.constexpr,
):  # fmt: skip
    matrix, start = run_of_block(starts, tl.program_id(1), matrices, block_m, matrices_block)
    if matrix < matrices:
        place = start + tl.arange(0, block_m)
        there = place < tl.load(starts + matrix + 1)
        columns = tl.program_id(0) * block_n + tl.arange(0, block_n)
        sums = sums_of_tile(
            x, x_scales, weights, scales,
            row_of_place(order, place, there, top_k), there, columns, n, k, blocks,
            0, tl.cdiv(k, depth), matrix, in_blocks, depth, block_n, block_m,
        )  # fmt: skip
        mask = columns < n
        if bias is not None:
            sums += tl.load(bias + matrix * n + columns, mask, 0.0)[:, None]
        to = out + tl.cast(place, tl.int64)[None, :] * n + columns[:, None]
        tl.store(to, sums.to(out.dtype.element_ty), mask[:, None] & there[None, :])


def _variant(
    name: str,
    kind: str,
    routes: int,
    in_blocks: bool = False,
    archs: tuple[int, ...] = (90, 100),
) -> Variant:
    tiles = tiles_for(routes, 128, 2048, in_blocks)
    as_bytes = kind == "*u8"
    types: dict[str, Any] = {"x": "*bf16" if as_bytes else kind, "weights": kind, "out": "*bf16"}
    types |= {"scales": "*fp32", "order": "*i32", "starts": "*i32", "n": "i32:16", "k": "i32:16"}
    types |= {"matrices": "i32", "blocks": "i32"} | ({} if as_bytes else {"x_scales": "*fp32"})
    shape = {"top_k": 8, "matrices_block": 128, "in_blocks": in_blocks, "depth": DEPTH}
    shape |= {"block_n": tiles.outputs, "block_m": tiles.rows}
    absent = {"bias": None} | ({"x_scales": None} if as_bytes else {})
    return Variant(
        name,
        _product,
        types,
        shape | absent,
        tiles.num_warps,
        tiles.num_stages,
        archs=archs,
    )


_EVERY = (80, 90, 100)
VARIANTS = (
    _variant("int8, few rows a matrix", "*i8", 512, archs=_EVERY),
    _variant("float8, few rows a matrix, in blocks", "*fp8e4nv", 512, in_blocks=True),
    _variant("float8, many rows a matrix, in blocks", "*fp8e4nv", 65536, in_blocks=True),
    _variant("float8 as bytes, few rows a matrix", "*u8", 512, archs=_EVERY),
    _variant("float8 as bytes, many rows a matrix", "*u8", 65536, archs=(80,)),
)
