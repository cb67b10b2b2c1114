"""Rounds rows to eight bits, each under a scale of its own: the activations' side of products whose
two sides have eight bits.

A row, or each block of its elements, has a scale by its largest magnitude: that becomes 127 of
signed bytes, and 448 of eight-bit floats.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.rope_cache import float8_bits, to_even
from pagemill.ops.triton.variants import Variant

_LARGEST_INT8, _LARGEST_FLOAT8 = 127.0, 448.0
_WIDE = 4096  # elements: from here on eight warps share a row


@triton.jit(do_not_specialize=["blocks"])
def _round(
    x, out, scales, k, stride, blocks,
    size: tl.constexpr, padded: tl.constexpr, largest: tl.constexpr, whole: tl.constexpr,
):  # fmt: skip
    """Program (t, b) rounds block b of row t. `size` elements are a block, `padded` a power of two
    that holds them."""
    row, block = tl.cast(tl.program_id(0), tl.int64), tl.program_id(1)
    inner = tl.arange(0, padded)
    at = block * size + inner
    mask = (inner < size) & (at < k)
    numbers = tl.load(x + row * stride + at, mask, 0).to(tl.float32)
    most = tl.max(tl.abs(numbers), 0)
    inverse = tl.where(most > 0, largest / tl.where(most > 0, most, 1.0), 0.0)
    scaled = numbers * inverse
    if whole:
        codes = to_even(scaled).to(tl.int8)
    else:
        codes = float8_bits(tl.minimum(tl.maximum(scaled, -largest), largest))
    tl.store(out + row * k + at, codes, mask)
    tl.store(scales + row * blocks + block, most * (1 / largest))


def round_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """(T, K) -> signed bytes (T, K) and scales (T, 1)."""
    return _rounded(x, torch.int8, x.shape[1], _LARGEST_INT8)


def round_float8(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(T, K) -> eight-bit floats (T, K) and scales (T, blocks) of `block` elements each."""
    return _rounded(x, torch.float8_e4m3fn, block, _LARGEST_FLOAT8)


def _rounded(x: Tensor, dtype: torch.dtype, size: int, largest: float) -> tuple[Tensor, Tensor]:
    x = x if x.stride(1) == 1 else x.contiguous()
    num_rows, k = x.shape
    blocks = triton.cdiv(k, size)
    out = torch.empty((num_rows, k), dtype=dtype, device=x.device)
    stored = torch.int8 if dtype == torch.int8 else torch.uint8
    scales = torch.empty((num_rows, blocks), dtype=torch.float32, device=x.device)
    _round[(num_rows, blocks)](
        x, out.view(stored), scales, k, x.stride(0), blocks,
        size=size,
        padded=triton.next_power_of_2(size),
        largest=largest,
        whole=dtype == torch.int8,
        num_warps=_warps(size),
    )  # fmt: skip
    return out, scales


def _warps(size: int) -> int:
    """As many as leave each thread a few accesses of 16 bytes: a block of 128 elements is one."""
    return 1 if size <= 256 else 4 if size < _WIDE else 8


def _variant(name: str, size: int, out: str, largest: float) -> Variant:
    types = {"x": "*bf16", "out": out, "scales": "*fp32", "k": "i32:16", "stride": "i32:16"}
    constants = {"size": size, "padded": triton.next_power_of_2(size), "largest": largest}
    return Variant(
        name,
        _round,
        types | {"blocks": "i32"},
        constants | {"whole": out == "*i8"},
        num_warps=_warps(size),
    )


VARIANTS = (
    _variant("int8, rows of 4096", 4096, "*i8", _LARGEST_INT8),
    _variant("int8, rows of 28672", 28672, "*i8", _LARGEST_INT8),
    _variant("float8, rows of 4096", 4096, "*u8", _LARGEST_FLOAT8),
    _variant("float8, blocks of 128", 128, "*u8", _LARGEST_FLOAT8),
)
