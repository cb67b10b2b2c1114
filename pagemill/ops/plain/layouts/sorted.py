"""Matrices whose inputs lie in another order than they come in, so that neighbours share a scale.

Activations are brought into that order before a product. Must not know: why inputs were sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """A matrix (N, K), `parts[0]` with its columns sorted: column j is input order[j]."""

    parts: tuple[Any]
    order: Tensor  # (K,) int32

    @property
    def n(self) -> int:
        return int(self.parts[0].n)

    @property
    def k(self) -> int:
        return int(self.parts[0].k)

    @property
    def nbytes(self) -> int:
        return int(self.parts[0].nbytes + self.order.nbytes)

    def product(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)"""
        y: Tensor = self.parts[0].product(x.index_select(1, self.order))
        return y

    def rows(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, K)"""
        rows = self.parts[0].rows(ids)
        return torch.empty_like(rows).index_copy_(1, self.order.long(), rows)
