"""Products with matrices of four-bit or eight-bit codes under the scales of groups.

Rows of x come as floats and stay as they are. Codes lie as `ops/plain/layouts/coded.py` tells: of a
step a program reads one stretch of memory, and a shift and a mask make each tile of codes out of it
in the registers in which the tensor cores want it. Outputs are the tall side of the tile products:
that is where codes may come from registers, and few rows of x need not be padded to many.

How many rows there are decides how scales come in. Few: the codes themselves are multiplied, small
whole numbers that every float holds, and a sum over a group gets the group's scale; minimums are
multiplied with the sum of x over the group, which a product with ones puts in the right registers.
Many: a tile of codes becomes a tile of weights, which then serves more rows than it has inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.card import card_of
from pagemill.ops.triton.partials import add_partials
from pagemill.ops.triton.variants import Variant

_ZERO, _ZEROS, _MINIMUMS = (tl.constexpr(kind) for kind in range(3))  # what shifts a group's codes
FEW = 32  # rows: scaling sums of a group of 32 costs less than making weights of its codes
_PER_PROCESSOR = 4  # programs at once on a processor: loads of some hide what others wait for
_LEAST_STEPS = 4  # of a program: fewer do not pay for another partial sum

# Two words of four codes -> the codes of one quarter as two bfloat16 numbers, less a zero point:
# the bits of 128 with a code in the lowest places are 128 + code.
_TAKE = """{{
.reg .b32 codes, one;
mov.b32 one, 0x3F803F80;
shr.u32 codes, $1, {shift};
lop3.b32 codes, codes, 0x000F000F, 0x43004300, 0xEA;
fma.rn.bf16x2 $0, codes, one, $2;
}}"""
_TAKE_0, _TAKE_1, _TAKE_2, _TAKE_3 = (
    tl.constexpr(_TAKE.format(shift=shift)) for shift in (0, 4, 8, 12)
)


class Codes(Protocol):
    """A matrix (N, K), as `layouts.coded.Coded` has it."""

    codes: Tensor  # (steps, N, run)
    scales: Tensor  # (groups, N)
    k: int
    group: int
    zero: int
    coarse: Tensor | None
    coarse_run: int
    shifts: Tensor | None
    coarse_shifts: Tensor | None
    minimums: bool
    values: Tensor | None

    @property
    def bits(self) -> int: ...


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
def _of_group(numbers, coarse, at, coarse_at, n, columns, mask):
    """A number of each output in group `at`, times that of its longer run."""
    out = tl.load(numbers + tl.cast(at, tl.int64) * n + columns, mask, 0).to(tl.float32)
    if coarse is not None:
        longer = coarse + tl.cast(coarse_at, tl.int64) * n + columns
        out *= tl.load(longer, mask, 0).to(tl.float32)
    return out


@triton.jit
def _take(words, less, instructions: tl.constexpr):
    """Two codes at a time. `less` is 128 and the zero point, negated."""
    less, words = tl.broadcast(less, words)
    return tl.inline_asm_elementwise(
        instructions, "=r,r,r", [words, less], dtype=tl.bfloat16, is_pure=True, pack=2
    )


@triton.jit
def _numbers(
    words, values, zeros,
    quarter: tl.constexpr, bits: tl.constexpr, native: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """What a tile of codes stands for, less zero points (outputs, 1)."""
    if native:
        if bits == 8:
            return words.to(tl.bfloat16) - zeros.to(tl.bfloat16)
        less = (-128 - zeros).to(tl.bfloat16)
        if quarter == 0:
            return _take(words, less, _TAKE_0)
        if quarter == 1:
            return _take(words, less, _TAKE_1)
        if quarter == 2:
            return _take(words, less, _TAKE_2)
        return _take(words, less, _TAKE_3)
    codes = words if bits == 8 else words >> 4 * quarter & 15
    if values is not None:
        return tl.load(values + codes.to(tl.int32)).to(dtype)
    return (codes.to(tl.int16) - zeros).to(tl.float32).to(dtype)


@triton.jit
def sums_of_tile(
    x, codes, scales, coarse, shifts, coarse_shifts, values,
    rows, of_rows, columns, n, k, stride, first, last, first_step, first_group, first_longer,
    bits: tl.constexpr, run: tl.constexpr, runs_of_group: tl.constexpr,
    runs_of_coarse: tl.constexpr, zero: tl.constexpr, kind: tl.constexpr, few: tl.constexpr,
    native: tl.constexpr, block_n: tl.constexpr, block_m: tl.constexpr,
):  # fmt: skip
    """(block_n, block_m): outputs `columns` of a matrix, of `rows` of x (where `of_rows`), summed
    over its steps from `first` to `last`. The matrix is one of many: it begins at `first_step` of
    codes, `first_group` of scales and `first_longer` of coarse ones."""
    runs: tl.constexpr = 1 if bits == 8 else 4
    runs_at_once: tl.constexpr = runs_of_group if runs_of_group < runs else runs
    of_step = columns[:, None] * run + tl.arange(0, run)[None, :]
    mask = columns < n
    sums = tl.zeros((block_n, block_m), tl.float32)
    for step in range(first, last):
        of_codes = codes + tl.cast(first_step + step, tl.int64) * n * run
        words = tl.load(of_codes + of_step, mask[:, None], 0)
        for group in tl.static_range(runs // runs_at_once):
            at = step * runs + group * runs_at_once
            of_group, longer = (
                first_group + at // runs_of_group,
                first_longer + at // runs_of_coarse,
            )
            known = mask & (tl.full((block_n,), at * run, tl.int32) < k)
            scale = _of_group(scales, coarse, of_group, longer, n, columns, known)
            zeros = tl.full((block_n,), zero, tl.int16)
            if kind == _ZEROS:
                zeros = tl.load(shifts + tl.cast(of_group, tl.int64) * n + columns, known, 0)
            if kind == _MINIMUMS:
                minimum = _of_group(shifts, coarse_shifts, of_group, longer, n, columns, known)
            part = tl.zeros((block_n, block_m), tl.float32)
            of_x = tl.zeros((block_n, block_m), tl.float32)
            for i in tl.static_range(runs_at_once):
                inputs = (at + i) * run + tl.arange(0, run)
                there = (inputs < k)[:, None] & of_rows[None, :]
                from_x = tl.cast(rows, tl.int64)[None, :] * stride + inputs[:, None]
                x_tile = tl.load(x + from_x, there, 0)  # (run, rows)
                numbers = _numbers(
                    words, values, zeros.to(tl.int16)[:, None],
                    group * runs_at_once + i, bits, native, x.dtype.element_ty,
                )  # fmt: skip
                if few:
                    part = tl.dot(numbers, x_tile, part, input_precision="ieee")
                    if kind == _MINIMUMS:
                        ones = tl.full((block_n, run), 1, x.dtype.element_ty)
                        of_x = tl.dot(ones, x_tile, of_x, input_precision="ieee")
                else:
                    weights = numbers.to(tl.float32) * scale[:, None]
                    if kind == _MINIMUMS:
                        weights -= minimum[:, None]
                    sums = tl.dot(
                        weights.to(x.dtype.element_ty), x_tile, sums, input_precision="ieee"
                    )
            if few:
                sums += part * scale[:, None]
                if kind == _MINIMUMS:
                    sums -= of_x * minimum[:, None]
    return sums


@triton.jit(do_not_specialize=["num_rows", "steps", "steps_of_split"])
def _product(
    x, codes, scales, coarse, shifts, coarse_shifts, values, out,
    num_rows, n, k, stride, steps, steps_of_split,
    bits: tl.constexpr, run: tl.constexpr, runs_of_group: tl.constexpr,
    runs_of_coarse: tl.constexpr, zero: tl.constexpr, kind: tl.constexpr, few: tl.constexpr,
    native: tl.constexpr, block_n: tl.constexpr, block_m: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * block_m + tl.arange(0, block_m)
    columns = tl.program_id(1) * block_n + tl.arange(0, block_n)
    split = tl.program_id(2)
    first = split * steps_of_split
    sums = sums_of_tile(
        x, codes, scales, coarse, shifts, coarse_shifts, values,
        rows, rows < num_rows, columns, n, k, stride,
        first, tl.minimum(first + steps_of_split, steps), 0, 0, 0,
        bits, run, runs_of_group, runs_of_coarse, zero, kind, few, native, block_n, block_m,
    )  # fmt: skip
    start = out + tl.cast(split, tl.int64) * num_rows * n
    to = tl.cast(rows, tl.int64)[None, :] * n + columns[:, None]
    mask = (columns < n)[:, None] & (rows < num_rows)[None, :]
    tl.store(start + to, sums.to(out.dtype.element_ty), mask)


def product(x: Tensor, matrix: Codes, tiles: Tiles | None = None) -> Tensor:
    """x (T, K) times the matrix transposed -> (T, N), in x's type; sums are float32."""
    x = x if x.stride(1) == 1 else x.contiguous()
    (num_rows, k), (steps, n, _) = x.shape, matrix.codes.shape
    there = card_of(x.device).multiprocessors
    tiles = tiles or tiles_of(num_rows, n, steps, there, x.element_size())
    of_split = -(-steps // tiles.splits)
    splits = -(-steps // of_split)
    shape = (num_rows, n) if splits == 1 else (splits, num_rows, n)
    out = torch.empty(shape, dtype=x.dtype if splits == 1 else torch.float32, device=x.device)
    grid = (triton.cdiv(num_rows, tiles.rows), triton.cdiv(n, tiles.outputs), splits)
    _product[grid](
        x, matrix.codes, matrix.scales, matrix.coarse, matrix.shifts, matrix.coarse_shifts,
        matrix.values, out, num_rows, n, k, x.stride(0), steps, of_split,
        few=num_rows <= FEW,
        **constants_of(x, matrix, tiles),
    )  # fmt: skip
    return out if splits == 1 else add_partials(out, x.dtype)


def constants_of(x: Tensor, matrix: Codes, tiles: Tiles) -> dict[str, Any]:
    """What kernels are compiled for, but for how many rows are few."""
    run = int(matrix.codes.shape[-1])
    return {
        "bits": matrix.bits,
        "run": run,
        "runs_of_group": matrix.group // run,
        "runs_of_coarse": max(1, matrix.coarse_run // run),
        "zero": matrix.zero,
        "kind": _kind(matrix),
        "native": _is_native(x, matrix),
        "block_n": tiles.outputs,
        "block_m": tiles.rows,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }


def tiles_of(num_rows: int, n: int, steps: int, processors: int, itemsize: int = 2) -> Tiles:
    """Few rows wait for memory: narrow tiles, and the inputs cut until every processor has several
    programs, each with many loads under way. Many rows wait for products: tiles as large as the
    registers of eight warps hold, which use what they read most often. float32 does not use the
    matrix units, and fills shared memory with tiles half as large."""
    if itemsize == 4 and num_rows > FEW:
        return Tiles(outputs=64, rows=FEW, splits=1, num_warps=4, num_stages=2)
    if num_rows > 2 * FEW:
        return Tiles(outputs=128, rows=128, splits=1, num_warps=8, num_stages=3)
    rows = next(size for size in (16, 32, 64) if num_rows <= size)
    if rows > FEW:  # x is read again for each tile of outputs, which are weights first
        outputs, num_warps = 128, 8
    else:
        outputs, num_warps = 64, 4
    programs = triton.cdiv(n, outputs)
    wanted = max(1, _PER_PROCESSOR * processors // programs)
    return Tiles(outputs, rows, max(1, min(wanted, steps // _LEAST_STEPS)), num_warps, 5)


def _kind(matrix: Codes) -> int:
    if matrix.shifts is None:
        return int(_ZERO.value)
    return int((_MINIMUMS if matrix.minimums else _ZEROS).value)


def _is_native(x: Tensor, matrix: Codes) -> bool:
    """Whether codes become bfloat16 numbers by NVIDIA's own instructions; all else, and the
    interpreter, takes the longer way."""
    nvidia = x.device.type == "cuda" and torch.version.hip is None
    return nvidia and matrix.values is None and x.dtype == torch.bfloat16


def _variant(
    name: str,
    types: dict[str, str],
    tiles: Tiles,
    archs: tuple[int, ...] = (80, 90, 100),
    may_spill: bool = False,
    **constants: Any,
) -> Variant:
    absent = {"coarse": None, "shifts": None, "coarse_shifts": None, "values": None}
    shape = {"bits": 4, "run": 32, "runs_of_group": 4, "runs_of_coarse": 1, "zero": 0, "kind": 0}
    shape["native"] = "values" not in types
    constants = shape | absent | constants
    tile = {"few": tiles.rows <= FEW, "block_n": tiles.outputs, "block_m": tiles.rows}
    out = "*fp32" if tiles.splits > 1 else "*bf16"
    numbers = dict.fromkeys(("n", "k", "stride"), "i32:16")
    numbers |= dict.fromkeys(("num_rows", "steps", "steps_of_split"), "i32")
    pointers = {"x": "*bf16", "codes": "*i16", "scales": "*fp16", "out": out} | types
    constants = {key: value for key, value in constants.items() if key not in types}
    return Variant(
        name,
        _product,
        pointers | numbers,
        constants | tile,
        tiles.num_warps,
        tiles.num_stages,
        archs=archs,
        may_spill=may_spill,
    )


_ONE_ROW, _MANY_ROWS = tiles_of(1, 4096, 32, 132), tiles_of(2048, 4096, 32, 132)
_K = {"scales": "*u8", "coarse": "*fp16", "shifts": "*u8", "coarse_shifts": "*fp16"}
_OF_K: dict[str, Any] = {"runs_of_group": 1, "runs_of_coarse": 8, "kind": 2}
VARIANTS = (
    _variant("AWQ, one row", {"shifts": "*u8"}, _ONE_ROW, kind=1),
    _variant("AWQ, many rows", {"shifts": "*u8"}, _MANY_ROWS, kind=1),
    # On cards whose sums have a memory of their own, a few bytes.
    _variant("Q4_K, one row", _K, _ONE_ROW, may_spill=True, **_OF_K),
    _variant("Q4_K, 64 rows", _K, tiles_of(64, 4096, 64, 132), archs=(80,), **_OF_K),
    _variant("Q4_K, many rows", _K, _MANY_ROWS, **_OF_K),
    _variant("MXFP4, one row", {"values": "*fp32"}, _ONE_ROW, archs=(90,), runs_of_group=1),
    _variant("Q8_0, one row", {"codes": "*i8"}, _ONE_ROW, bits=8, run=32, runs_of_group=1),
    _variant(
        "Q6_K, one row",
        {"codes": "*i8", "scales": "*i8", "coarse": "*fp16"},
        _ONE_ROW,
        archs=(90,),
        bits=8,
        run=16,
        runs_of_group=1,
        runs_of_coarse=16,
    ),
)
