"""Matrices of one shape side by side in memory, as one tensor for each of theirs: what multiplies
with many of them at once needs only one address.

The matrices stay what they are, as parts of these tensors: nothing is kept twice. Must not know:
what matrices are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from pagemill.ops.plain.layouts.coded import Coded
from pagemill.ops.plain.layouts.dense import Dense
from pagemill.ops.plain.layouts.float8 import Float8
from pagemill.ops.plain.layouts.int8 import Int8

_TENSORS = ("codes", "scales", "coarse", "shifts", "coarse_shifts")


def dense(matrices: Sequence[Dense]) -> Tensor:
    """(E, N, K)"""
    weights = torch.stack([matrix.weight for matrix in matrices])
    for matrix, weight in zip(matrices, weights, strict=True):
        matrix.weight = weight
    return weights


def int8(matrices: Sequence[Int8]) -> tuple[Tensor, Tensor]:
    """Codes (E, N, K) and scales (E, N)."""
    codes = torch.stack([matrix.codes for matrix in matrices])
    scales = torch.stack([matrix.scales for matrix in matrices])
    for at, matrix in enumerate(matrices):
        _become(matrix, replace(matrix, codes=codes[at], scales=scales[at]))
    return codes, scales


def float8(matrices: Sequence[Float8]) -> tuple[Tensor, Tensor]:
    """Codes (E, N, K) and scales (E, blocks, N): as many blocks as some of them have."""
    blocks = max(len(matrix.scales) for matrix in matrices)
    # Bytes are moved as bytes: not every device does so with floats of eight bits.
    codes = torch.stack([matrix.codes.view(torch.uint8) for matrix in matrices])
    codes = codes.view(torch.float8_e4m3fn)
    scales = torch.stack([matrix.scales.expand(blocks, -1) for matrix in matrices])
    for at, matrix in enumerate(matrices):
        _become(matrix, replace(matrix, codes=codes[at], scales=scales[at]))
    return codes, scales


def coded(matrices: Sequence[Coded]) -> Coded | None:
    """Matrices of one format as one whose tensors have an axis more, the first. None where codes
    lie in different runs.

    Each was read alone, so some may have wider groups than others, scales of a smaller type, or the
    same zero point everywhere.
    """
    group = min(matrix.group for matrix in matrices)
    shape = matrices[0].codes.shape
    if any(matrix.group % group or matrix.codes.shape != shape for matrix in matrices):
        return None
    alike = [_in_groups(matrix, group) for matrix in matrices]
    if not alike[0].minimums and any(
        one.shifts is not None or one.zero != alike[0].zero for one in alike
    ):
        alike = [_with_zeros(one) for one in alike]
    tensors: dict[str, Any] = {
        name: _stack([getattr(one, name) for one in alike]) for name in _TENSORS
    }
    for at, (matrix, one) in enumerate(zip(matrices, alike, strict=True)):
        own: dict[str, Any] = {
            name: None if part is None else part[at] for name, part in tensors.items()
        }
        _become(matrix, replace(one, **own))
    return replace(alike[0], **tensors)


def _in_groups(matrix: Coded, group: int) -> Coded:
    """The same with scales of narrower groups. Those with coarse ones are never wider."""
    each = matrix.group // group
    if each == 1:
        return matrix
    shifts = None if matrix.shifts is None else matrix.shifts.repeat_interleave(each, 0)
    scales = matrix.scales.repeat_interleave(each, 0)
    return replace(matrix, group=group, scales=scales, shifts=shifts)


def _with_zeros(matrix: Coded) -> Coded:
    """The same with a zero point for each group."""
    if matrix.shifts is not None:
        return matrix
    zeros = torch.full_like(matrix.scales, matrix.zero, dtype=torch.int16)
    return replace(matrix, zero=0, shifts=zeros)


def _stack(parts: Sequence[Tensor | None]) -> Tensor | None:
    """In the type of all, or where they differ in one that holds them."""
    some = [part for part in parts if part is not None]
    if not some:
        return None
    dtype = some[0].dtype
    if any(part.dtype != dtype for part in some):
        dtype = torch.float32 if dtype.is_floating_point else torch.int16
    return torch.stack([part.to(dtype) for part in some])


def _become(matrix: Any, other: Any) -> None:
    """What a matrix has of another, so that whoever holds it finds the other."""
    for field in fields(matrix):
        object.__setattr__(matrix, field.name, getattr(other, field.name))
