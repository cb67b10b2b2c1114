"""Products of tokens with the coded matrix that each of them chose: experts of four-bit or
eight-bit codes under the scales of groups.

`grouped.py` tells how tokens find their matrix, `coded.py` how codes are multiplied; this is both.
The inputs are not cut: there are as many programs as chosen experts have tiles of outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.coded import FEW, Codes, Tiles, constants_of, sums_of_tile, tiles_of
from pagemill.ops.triton.grouped import Routes, row_of_place, run_of_block
from pagemill.ops.triton.variants import Variant


def product(
    x: Tensor,
    matrices: Codes,
    routes: Routes,
    bias: Tensor | None = None,
    *,
    gather: bool,
    tiles: Tiles | None = None,
) -> Tensor:
    """As `grouped.grouped_product`. Of `matrices` each tensor has one more axis, the first: which
    matrix."""
    x = x if x.stride(1) == 1 else x.contiguous()
    num_matrices, steps, n, _ = matrices.codes.shape
    num_routes = len(routes.order)
    out = torch.empty((num_routes, n), dtype=x.dtype, device=x.device)
    if not num_routes:
        return out
    tiles = tiles or tiles_for(num_routes, num_matrices, n, steps, x.element_size())
    longer = 0 if matrices.coarse is None else matrices.coarse.shape[1]
    _product[triton.cdiv(n, tiles.outputs), routes.blocks(tiles.rows)](
        x, matrices.codes, matrices.scales, matrices.coarse, matrices.shifts,
        matrices.coarse_shifts, matrices.values, bias, out, routes.order, routes.starts,
        num_matrices, n, matrices.k, x.stride(0), steps, matrices.scales.shape[1], longer,
        top_k=routes.top_k if gather else 0,
        matrices_block=triton.next_power_of_2(num_matrices),
        few=tiles.rows <= FEW,
        **constants_of(x, matrices, tiles),
    )  # fmt: skip
    return out


def tiles_for(routes: int, matrices: int, n: int, steps: int, itemsize: int = 2) -> Tiles:
    """Those of a product of as many rows as a matrix has on average."""
    return tiles_of(triton.cdiv(routes, matrices), n, steps, 0, itemsize)


@triton.jit(do_not_specialize=["matrices", "steps", "groups", "longer"])
def _product(
    x, codes, scales, coarse, shifts, coarse_shifts, values, bias, out, order, starts,
    matrices, n, k, stride, steps, groups, longer,
    top_k: tl.constexpr, matrices_block: tl.constexpr,
    bits: tl.constexpr, run: tl.constexpr, runs_of_group: tl.constexpr,
    runs_of_coarse: tl.constexpr, zero: tl.constexpr, kind: tl.constexpr, few: tl.constexpr,
    native: tl.constexpr, block_n: tl.constexpr, block_m: tl.constexpr,
):  # fmt: skip
    matrix, start = run_of_block(starts, tl.program_id(1), matrices, block_m, matrices_block)
    if matrix < matrices:
        place = start + tl.arange(0, block_m)
        there = place < tl.load(starts + matrix + 1)
        columns = tl.program_id(0) * block_n + tl.arange(0, block_n)
        sums = sums_of_tile(
            x, codes, scales, coarse, shifts, coarse_shifts, values,
            row_of_place(order, place, there, top_k), there, columns, n, k, stride,
            0, steps, matrix * steps, matrix * groups, matrix * longer,
            bits, run, runs_of_group, runs_of_coarse, zero, kind, few, native, block_n, block_m,
        )  # fmt: skip
        mask = columns < n
        if bias is not None:
            sums += tl.load(bias + matrix * n + columns, mask, 0.0)[:, None]
        to = out + tl.cast(place, tl.int64)[None, :] * n + columns[:, None]
        tl.store(to, sums.to(out.dtype.element_ty), mask[:, None] & there[None, :])


def _variant(
    name: str, routes: int, types: dict[str, str], biased: bool = False, **constants: Any
) -> Variant:
    tiles = tiles_for(routes, 128, 2048, 32)
    pointers = {"x": "*bf16", "codes": "*i16", "scales": "*fp16", "out": "*bf16"} | types
    pointers |= {"order": "*i32", "starts": "*i32"} | ({"bias": "*fp32"} if biased else {})
    numbers = dict.fromkeys(("n", "k", "stride"), "i32:16")
    numbers |= dict.fromkeys(("matrices", "steps", "groups", "longer"), "i32")
    absent = dict.fromkeys(("coarse", "shifts", "coarse_shifts", "values", "bias"))
    shape = {"bits": 4, "run": 32, "runs_of_group": 1, "runs_of_coarse": 1, "zero": 0, "kind": 0}
    shape |= {"top_k": 8, "matrices_block": 128, "native": "values" not in types}
    shape |= {"few": tiles.rows <= FEW, "block_n": tiles.outputs, "block_m": tiles.rows}
    chosen = {key: value for key, value in (absent | shape).items() if key not in pointers}
    return Variant(
        name,
        _product,
        pointers | numbers,
        chosen | constants,
        tiles.num_warps,
        tiles.num_stages,
    )


_K = {"scales": "*u8", "coarse": "*fp16", "shifts": "*u8", "coarse_shifts": "*fp16"}
_OF_K: dict[str, Any] = {"runs_of_coarse": 8, "kind": 2}
VARIANTS = (
    _variant("MXFP4, few rows a matrix", 64, {"values": "*fp32"}, biased=True),
    _variant("AWQ, few rows a matrix", 512, {"shifts": "*u8"}, kind=1, runs_of_group=4),
    _variant("Q4_K, many rows a matrix", 65536, _K, **_OF_K),
)
