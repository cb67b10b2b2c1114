"""Products whose two sides have eight bits: signed bytes, or eight-bit floats (E4M3).

Weights lie output after output. Scales of activations and weights are of all inputs or of blocks of
128: sums over a block are exact in 32 bits (bytes), or as good as the tensor cores' adders keep
them (floats), and are scaled and added up in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.attention import numbers
from pagemill.ops.triton.card import card_of
from pagemill.ops.triton.partials import add_partials
from pagemill.ops.triton.variants import Variant

DEPTH = 128  # inputs of a step: what a block of scales has, and a whole cache line of bytes
_FEW = 64  # rows that wait for memory
_PER_PROCESSOR = 2
_LEAST_STEPS = 4


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product is cut: outputs and rows of a program, parts of the inputs, and what Triton is
    told."""

    outputs: int
    rows: int
    splits: int
    num_warps: int
    num_stages: int


@triton.jit
def sums_of_tile(
    x, x_scales, weight, scales,
    rows, of_rows, columns, n, k, blocks, first, last, matrix,
    in_blocks: tl.constexpr, depth: tl.constexpr, block_n: tl.constexpr, block_m: tl.constexpr,
):  # fmt: skip
    """(block_n, block_m): outputs `columns` of a matrix, which is number `matrix` of many, of
    `rows` of x (where `of_rows`), summed over its steps from `first` to `last`. An x of other
    numbers than weights has no scales: codes become numbers like its own."""
    of_columns = columns < n
    from_x = x + tl.cast(rows, tl.int64)[None, :] * k
    from_weight = weight + (tl.cast(matrix, tl.int64) * n + columns)[:, None] * k
    from_scales = scales + tl.cast(matrix, tl.int64) * blocks * n + columns
    whole: tl.constexpr = x.dtype.element_ty == tl.int8
    sums = tl.zeros((block_n, block_m), tl.float32)
    exact = tl.zeros((block_n, block_m), tl.int32)
    for step in range(first, last):
        inputs = step * depth + tl.arange(0, depth)
        x_tile = tl.load(from_x + inputs[:, None], (inputs < k)[:, None] & of_rows[None, :], 0.0)
        tile = tl.load(
            from_weight + inputs[None, :], of_columns[:, None] & (inputs < k)[None, :], 0.0
        )
        if whole:
            exact = tl.dot(tile, x_tile, exact, out_dtype=tl.int32)
        else:
            if x_scales is None:
                part = tl.dot(numbers(tile, x.dtype.element_ty), x_tile, input_precision="ieee")
            else:
                part = tl.dot(tile, x_tile)
            if in_blocks:
                at = tl.cast(step, tl.int64) * n
                part *= tl.load(from_scales + at, of_columns, 0)[:, None]
                if x_scales is not None:
                    part *= tl.load(x_scales + rows * blocks + step, of_rows, 0)[None, :]
            sums += part
    if whole:
        sums = exact.to(tl.float32)
    if not in_blocks:
        sums *= tl.load(from_scales, of_columns, 0)[:, None]
        if x_scales is not None:
            sums *= tl.load(x_scales + rows, of_rows, 0)[None, :]
    return sums


@triton.jit(do_not_specialize=["num_rows", "blocks", "steps_of_split"])
def _product(
    x, x_scales, weight, scales, out,
    num_rows, n, k, blocks, steps_of_split,
    in_blocks: tl.constexpr, depth: tl.constexpr, block_n: tl.constexpr, block_m: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * block_m + tl.arange(0, block_m)
    columns = tl.program_id(1) * block_n + tl.arange(0, block_n)
    split = tl.program_id(2)
    first = split * steps_of_split
    last = tl.minimum(first + steps_of_split, tl.cdiv(k, depth))
    sums = sums_of_tile(
        x, x_scales, weight, scales, rows, rows < num_rows, columns, n, k, blocks, first, last, 0,
        in_blocks, depth, block_n, block_m,
    )  # fmt: skip
    start = out + tl.cast(split, tl.int64) * num_rows * n
    to = tl.cast(rows, tl.int64)[None, :] * n + columns[:, None]
    mask = (columns < n)[:, None] & (rows < num_rows)[None, :]
    tl.store(start + to, sums.to(out.dtype.element_ty), mask)


def product(
    x: Tensor,
    x_scales: Tensor,
    weight: Tensor,
    scales: Tensor,
    dtype: torch.dtype,
    tiles: Tiles | None = None,
) -> Tensor:
    """x (T, K) under scales (T, blocks), times weight (N, K) under scales (blocks, N), transposed:
    (T, N) in `dtype`. There is one block, or one for each 128 inputs of eight-bit floats."""
    (num_rows, k), n = x.shape, len(weight)
    steps, blocks = triton.cdiv(k, DEPTH), len(scales)
    if blocks not in (1, steps) or x_scales.shape != (num_rows, blocks):
        raise ValueError(
            f"scales {tuple(x_scales.shape)} and {tuple(scales.shape)} of {k} inputs: there must "
            f"be 1 or {steps} blocks"
        )
    tiles = tiles or tiles_of(num_rows, n, steps, card_of(x.device).multiprocessors, blocks > 1)
    of_split = -(-steps // tiles.splits)
    splits = -(-steps // of_split)
    shape = (num_rows, n) if splits == 1 else (splits, num_rows, n)
    out = torch.empty(shape, dtype=dtype if splits == 1 else torch.float32, device=x.device)
    grid = (triton.cdiv(num_rows, tiles.rows), triton.cdiv(n, tiles.outputs), splits)
    _product[grid](
        x, x_scales, weight, scales, out, num_rows, n, k, blocks, of_split,
        in_blocks=blocks > 1,
        depth=DEPTH,
        block_n=tiles.outputs,
        block_m=tiles.rows,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )  # fmt: skip
    return out if splits == 1 else add_partials(out, dtype)


def tiles_of(num_rows: int, n: int, steps: int, processors: int, in_blocks: bool = False) -> Tiles:
    """Few rows wait for memory: narrow tiles, and inputs cut until all processors have programs.
    Many wait for products: as large a tile as eight warps hold sums of, and of blocks twice: those
    under way, and what was scaled."""
    if num_rows > _FEW:
        return Tiles(128, rows=64 if in_blocks else 128, splits=1, num_warps=8, num_stages=3)
    rows = next(size for size in (16, 32, 64) if num_rows <= size)
    wanted = max(1, _PER_PROCESSOR * processors // triton.cdiv(n, 64))
    return Tiles(64, rows, max(1, min(wanted, steps // _LEAST_STEPS)), 4, 4)


def _variant(name: str, kind: str, num_rows: int, in_blocks: bool = False) -> Variant:
    tiles = tiles_of(num_rows, 4096, 32, 132, in_blocks)
    types: dict[str, Any] = {"x": kind, "x_scales": "*fp32", "weight": kind, "scales": "*fp32"}
    types |= {"out": "*fp32" if tiles.splits > 1 else "*bf16", "num_rows": "i32", "n": "i32:16"}
    types |= {"k": "i32:16", "blocks": "i32", "steps_of_split": "i32"}
    shape = {"block_n": tiles.outputs, "block_m": tiles.rows, "depth": DEPTH}
    return Variant(
        name,
        _product,
        types,
        shape | {"in_blocks": in_blocks},
        tiles.num_warps,
        tiles.num_stages,
        archs=(80, 90, 100) if kind == "*i8" else (90, 100),
    )


VARIANTS = (
    _variant("int8, few rows", "*i8", 16),
    _variant("int8, many rows", "*i8", 2048),
    _variant("float8, few rows", "*fp8e4nv", 16),
    _variant("float8, few rows in blocks", "*fp8e4nv", 16, in_blocks=True),
    _variant("float8, many rows in blocks", "*fp8e4nv", 2048, in_blocks=True),
)
