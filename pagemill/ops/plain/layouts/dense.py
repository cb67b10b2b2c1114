"""Matrices of plain numbers, in the type that the model computes in."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pagemill.weights import formats

_DTYPES = MappingProxyType({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16})
_SLAB_ELEMENTS = 1 << 20
_MOST_THREADS = 16  # each has a slab in hand


class Dense:
    """A matrix (N, K) of plain numbers."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.n, self.k = weight.shape

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes)

    def product(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)"""
        return functional.linear(x, self.weight)

    def rows(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, K)"""
        return functional.embedding(ids, self.weight)


def unpack_into(out: Tensor, name: str, raw: NDArray[np.uint8]) -> None:
    """What stored rows mean, into `out` (rows, K), some rows at a time."""
    rows, k = out.shape
    stored = raw.reshape(rows, -1)
    step = max(1, _SLAB_ELEMENTS // k)

    def unpack(start: int) -> None:
        part = stored[start : start + step]
        if name in _DTYPES:
            numbers = torch.from_numpy(part.copy()).view(_DTYPES[name])
        else:
            numbers = torch.from_numpy(formats.get(name).unpack(part))
        out[start : start + step] = numbers.to(out.dtype)

    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        list(threads.map(unpack, range(0, rows, step)))
