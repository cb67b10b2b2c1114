"""Low-rank adapters on torch's own calls: every row meets every adapter's first matrix, keeps what
its own gave, and all second matrices are one product. Nothing waits for the device; the work grows
with the number of adapters. See `ops.low_rank`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Adapters:
    """Adapters of one matrix (N, K)."""

    down: Tensor  # (A, rank, K)
    up: Tensor  # (A, N, rank)
    scales: Tensor  # (A,) float32


def adapt(y: Tensor, x: Tensor, adapters: Adapters, chosen: Tensor) -> Tensor:
    """y (T, N) and what each row's adapter adds, of x (T, K); `chosen` (T,), -1 for none."""
    count, rank, k = adapters.down.shape
    inner = (x.float() @ adapters.down.float().view(-1, k).T).view(len(x), count, rank)
    own = chosen[:, None] == torch.arange(count, device=chosen.device)
    inner = torch.where(own[..., None], inner * adapters.scales[:, None], 0.0)
    added = inner.flatten(1) @ adapters.up.float().transpose(1, 2).flatten(0, 1)
    return (y.float() + added).to(y.dtype)
