"""Matrices of signed bytes with one scale for each output: both sides of a product are int8.

What W8A8 folders mean: the numbers of each token are rounded to int8 under a scale of their own,
products are whole numbers, and both scales are multiplied with at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pagemill.ops.plain.layouts.codings import Coding

LARGEST = 127


@dataclass(frozen=True, slots=True, eq=False)
class Int8:
    """A matrix (N, K)."""

    codes: Tensor  # (N, K) int8
    scales: Tensor  # (N,) float32
    dtype: torch.dtype  # of rows that are looked up

    @property
    def n(self) -> int:
        return int(self.codes.shape[0])

    @property
    def k(self) -> int:
        return int(self.codes.shape[1])

    @property
    def nbytes(self) -> int:
        return int(self.codes.nbytes + self.scales.nbytes)

    def product(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)"""
        codes, scales = round_rows(x)
        # Sums of whole numbers that single precision holds, or nearly.
        sums = functional.linear(codes.float(), self.codes.float())
        return (sums * scales[:, None] * self.scales).to(x.dtype)

    def rows(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, K)"""
        return (self.codes[ids].float() * self.scales[ids, None]).to(self.dtype)


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(T, K) -> signed bytes (T, K) and scales (T,): the largest magnitude of a row becomes 127."""
    numbers = x.float()
    largest = numbers.abs().amax(1)
    inverse = torch.where(largest > 0, torch.full_like(largest, LARGEST) / largest, 0.0)
    codes = (numbers * inverse[:, None]).round().to(torch.int8)
    return codes, largest * (1 / LARGEST)


def read(coding: Coding, parts: Sequence[Tensor], scales: Tensor, dtype: torch.dtype) -> Int8:
    """Blocks (rows, blocks, bytes) whose rows have one scale each, (N, 1)."""
    codes = torch.cat([coding.codes(part).flatten(1) for part in parts])
    return Int8(codes, scales[:, 0].float(), dtype)
