"""Adds up what the programs of a product left whose inputs were cut, always in the same order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.variants import Variant

_BLOCK = 1024  # eight elements a thread: two accesses of 16 bytes


@triton.jit(do_not_specialize=["splits"])
def _add(partials, out, size, splits, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    mask = at < size
    sums = tl.zeros((block,), tl.float32)
    for split in range(splits):
        sums += tl.load(partials + tl.cast(split, tl.int64) * size + at, mask, 0)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask)


def add_partials(partials: Tensor, dtype: torch.dtype) -> Tensor:
    """(splits, T, N) in float32 -> their sum (T, N) in `dtype`."""
    splits, num_rows, n = partials.shape
    out = torch.empty((num_rows, n), dtype=dtype, device=partials.device)
    _add[(triton.cdiv(out.numel(), _BLOCK),)](partials, out, out.numel(), splits, block=_BLOCK)
    return out


VARIANTS = (
    Variant(
        "bf16",
        _add,
        {"partials": "*fp32", "out": "*bf16", "size": "i32:16", "splits": "i32"},
        {"block": _BLOCK},
    ),
)
