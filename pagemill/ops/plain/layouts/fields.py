"""Fields of stored blocks as tensors: the same as `weights.formats.blocks`, on any device.

Blocks are uint8 (..., bytes of a block). Must not know: formats.
"""

from __future__ import annotations

import torch
from torch import Tensor


def half(blocks: Tensor, at: int) -> Tensor:
    """The half-precision number at byte `at` of each block, (..., 1)."""
    return blocks[..., at : at + 2].contiguous().view(torch.float16)


def single(blocks: Tensor, at: int) -> Tensor:
    """The single-precision number at byte `at` of each block, (..., 1)."""
    return blocks[..., at : at + 4].contiguous().view(torch.float32)


def short(blocks: Tensor, at: int) -> Tensor:
    """The whole number in two bytes from `at`, (..., 1). Those of our formats have no sign."""
    return blocks[..., at : at + 2].contiguous().view(torch.int16)


def split_bits(raw: Tensor, bits: int, run: int) -> Tensor:
    """Fields of `bits` bits, (..., bytes) -> (..., bytes * 8 / bits). Of each `run` bytes come
    first all their lowest fields, then all the next ones, up to the highest."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=raw.device)[:, None]
    fields = raw.unflatten(-1, (-1, 1, run)) >> shifts
    fields &= (1 << bits) - 1
    return fields.flatten(-3)


def six_bits(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The twelve bytes of eight scales and eight minimums that `weights.formats.six_bits` tells
    of, (..., 12) -> (..., 8) each."""
    first, second, third = raw[..., 0:4], raw[..., 4:8], raw[..., 8:12]
    scales = [first & 63, third & 15 | first >> 6 << 4]
    minimums = [second & 63, third >> 4 | second >> 6 << 4]
    return torch.cat(scales, -1), torch.cat(minimums, -1)


def signed(numbers: Tensor, zero: int) -> Tensor:
    """numbers - zero as signed bytes."""
    return numbers.view(torch.int8) - zero
