"""Matrices of several layouts as one, rows after rows: parts of a fused one may differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Stacked:
    """Matrices (N, K) of equal K along N."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)
        self.n = sum(part.n for part in self.parts)
        self.k = self.parts[0].k

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def product(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)"""
        return torch.cat([part.product(x) for part in self.parts], 1)

    def rows(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, K): every part looks up what it can, so that nothing waits for the ids."""
        start, out = 0, None
        for part in self.parts:
            rows = part.rows((ids - start).clamp(0, part.n - 1))
            out = rows if out is None else torch.where((ids >= start)[:, None], rows, out)
            start += part.n
        return out
