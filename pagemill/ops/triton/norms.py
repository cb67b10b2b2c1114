"""RMS norm and layer norm, alone or together with the sum that comes before.

Torch's norms ask for weights of the type of what is normed; ours are float32 for networks in
bfloat16, which torch takes apart into several passes over memory. With `residual` the sum
x + residual is written on the way: of a row of n numbers of two bytes 8n bytes move, in two
launches 10n.

A row's sum is taken in one order, whatever the number of rows: how rows are cut depends on their
length only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.variants import Variant

LONGEST_ROW = 1 << 15  # numbers that a program's registers can hold


def norm_tile(n: int) -> tuple[int, int, int]:
    """For rows of n numbers: rows of a program, columns of its tile, warps."""
    block = triton.next_power_of_2(n)
    rows = max(1, 1024 // block)
    return rows, block, min(16, max(1, rows * block // 512))


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; `weight` is float32, as long as that
    axis or as several rows, which it then repeats. With a residual of the shape of x: (the norm of
    the sum, the sum)."""
    return _launch(x, weight, None, eps, residual, centred=False)


def layer_norm(
    x: Tensor, weight: Tensor, shift: Tensor | None, eps: float, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """(x - mean) / sqrt(variance + eps) * weight + shift over the last axis, likewise."""
    return _launch(x, weight, shift, eps, residual, centred=True)


def _launch(
    x: Tensor,
    weight: Tensor,
    shift: Tensor | None,
    eps: float,
    residual: Tensor | None,
    *,
    centred: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    n = x.shape[-1]
    if n > LONGEST_ROW:
        raise ValueError(f"a row of {n} numbers; norms take at most {LONGEST_ROW}")
    cut = as_heads(x)
    num_rows = cut.shape[0] * cut.shape[1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = None
    if residual is not None:
        total, residual = torch.empty_like(out), residual.contiguous()
    rows, block, warps = norm_tile(n)
    if num_rows:
        _norm_kernel[(triton.cdiv(num_rows, rows),)](
            cut, residual, weight, shift, out, total,
            num_rows, cut.shape[1], n, weight.numel() // n, cut.stride(0), cut.stride(1), eps,
            CENTRED=centred, SHIFTED=shift is not None, SUMMED=residual is not None,
            ROWS=rows, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return out if total is None else (out, total)


def as_heads(x: Tensor) -> Tensor:
    """x (..., H, n) as (T, H, n) with numbers next to each other, without a copy where it is a
    part of rows."""
    if x.ndim == 2:
        x = x[:, None]
    elif x.ndim != 3:
        x = x.reshape(-1, 1, x.shape[-1])
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


@triton.jit(do_not_specialize=["num_rows", "heads", "weight_rows"])
def _norm_kernel(
    x, residual, weight, shift, out, total,
    num_rows, heads, n, weight_rows, x_token, x_head, eps,
    CENTRED: tl.constexpr, SHIFTED: tl.constexpr, SUMMED: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < num_rows) & (column < n)
    wide = row.to(tl.int64)  # rows times columns may be more than 32 bits hold
    source = wide // heads * x_token + wide % heads * x_head + column
    target = wide * n + column
    y = tl.load(x + source, inside, 0.0).to(tl.float32)
    if SUMMED:
        y += tl.load(residual + target, inside, 0.0).to(tl.float32)
        stored = y.to(total.dtype.element_ty)
        tl.store(total + target, stored, inside)
        y = stored.to(tl.float32)  # what a norm of the stored sum would read
    if CENTRED:
        y = tl.where(inside, y - (tl.sum(y, 1) / n)[:, None], 0.0)
    y = y * tl.rsqrt(tl.sum(y * y, 1) / n + eps)[:, None]
    scale = row % weight_rows * n + column
    y *= tl.load(weight + scale, column < n, 0.0)
    if SHIFTED:
        y += tl.load(shift + column, column < n, 0.0)
    tl.store(out + target, y.to(out.dtype.element_ty), inside)


def _variant(name: str, n: int, *, centred: bool = False, summed: bool = False) -> Variant:
    rows, block, warps = norm_tile(n)
    types = {"x": "*bf16", "out": "*bf16", "weight": "*fp32"}
    types |= {"residual": "*bf16", "total": "*bf16"} if summed else {}
    types |= {"shift": "*fp32"} if centred else {}
    types |= dict.fromkeys(("n", "x_token", "x_head"), "i32:16")
    types |= {"num_rows": "i32", "heads": "i32", "weight_rows": "i32", "eps": "fp32"}
    constants: dict[str, object] = {"CENTRED": centred, "SHIFTED": centred, "SUMMED": summed}
    constants |= {"ROWS": rows, "BLOCK": block}
    constants |= {} if summed else {"residual": None, "total": None}
    constants |= {} if centred else {"shift": None}
    return Variant(name, _norm_kernel, types, constants, num_warps=warps)


VARIANTS = (
    _variant("RMS norm and sum, rows of 4096", 4096, summed=True),
    _variant("RMS norm, rows of 16384", 16384),
    _variant("RMS norm, heads of 128", 128),
    _variant("layer norm, rows of 768", 768, centred=True),
)
