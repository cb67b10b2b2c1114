"""Matrices whose products are kernels of ours: what a GPU puts around the layouts of `ops/plain`.

Chooses by layout, card and number of rows. Must not know: what a matrix is for, and how a kernel
works. It is imported where Triton is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pagemill.ops.plain.layouts.coded import Coded
from pagemill.ops.plain.layouts.float8 import Float8
from pagemill.ops.plain.layouts.int8 import Int8
from pagemill.ops.plain.layouts.sorted import Sorted
from pagemill.ops.plain.layouts.stacked import Stacked
from pagemill.ops.plain.matrices import Matrix
from pagemill.ops.triton import coded, eight_bits
from pagemill.ops.triton.round_rows import round_float8, round_int8

_FLOAT8_CARDS = (8, 9)  # compute capability: from here on tensor cores multiply eight-bit floats
_MANY = 64  # rows: for fewer, torch's product of eight-bit floats fills its tiles with nothing
_ALIGNED = 16  # it wants sizes that are multiples of that


@dataclass(frozen=True, slots=True, eq=False)
class Multiplied:
    """A matrix, and what multiplies with it."""

    matrix: Any
    multiply: Callable[[Tensor, Any], Tensor]

    @property
    def n(self) -> int:
        return int(self.matrix.n)

    @property
    def k(self) -> int:
        return int(self.matrix.k)

    @property
    def nbytes(self) -> int:
        return int(self.matrix.nbytes)

    def product(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)"""
        return self.multiply(x, self.matrix)

    def rows(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, K)"""
        rows: Tensor = self.matrix.rows(ids)
        return rows


def with_kernels(matrix: Matrix, device: torch.device) -> Matrix:
    """The same matrix, multiplied by a kernel where its layout has one on this device."""
    if isinstance(matrix, Stacked):
        return Stacked([with_kernels(part, device) for part in matrix.parts])
    if isinstance(matrix, Sorted):
        return Sorted((with_kernels(matrix.parts[0], device),), matrix.order)
    if isinstance(matrix, Coded):
        return Multiplied(matrix, coded.product)
    if isinstance(matrix, Int8):
        return Multiplied(matrix, _of_bytes)
    if isinstance(matrix, Float8) and multiplies_float8(device):
        return Multiplied(matrix, of_float8)
    return matrix


def _of_bytes(x: Tensor, matrix: Int8) -> Tensor:
    codes, scales = round_int8(x)
    return eight_bits.product(codes, scales, matrix.codes, matrix.scales[None], x.dtype)


def of_float8(x: Tensor, matrix: Float8) -> Tensor:
    """Activations are rounded to eight-bit floats too: each token, or each 128 inputs of it, as
    the matrix has its scales. Torch's product has no scales of blocks on every card."""
    codes, scales = round_float8(x, matrix.block)
    fits = matrix.n % _ALIGNED == 0 and matrix.k % _ALIGNED == 0 and x.dtype == torch.bfloat16
    if len(matrix.scales) > 1 or len(x) <= _MANY or not fits:
        return eight_bits.product(codes, scales, matrix.codes, matrix.scales, x.dtype)
    y: Tensor = torch._scaled_mm(
        codes, matrix.codes.T, scale_a=scales, scale_b=matrix.scales, out_dtype=x.dtype
    )
    return y


def multiplies_float8(device: torch.device) -> bool:
    """Whether tensor cores do."""
    nvidia = device.type == "cuda" and torch.version.hip is None
    return nvidia and torch.cuda.get_device_capability(device) >= _FLOAT8_CARDS
