"""Low-rank adapters (Hu et al., 2021): corrections of a matrix, of which each row of a step chooses
its own. What a backend may offer beside `Ops`, and its definition in plain numpy.

No network asks for it yet. Must not know: where adapters come from, and who chooses.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from pagemill.ops.interface import Array, Float32, Int32


@runtime_checkable
class LowRank(Protocol):
    """A backend that adds low-rank corrections."""

    def adapters(self, down: Float32, up: Float32, scales: Float32) -> Array:
        """Take over A adapters of a matrix (N, K), all of one rank: `down` (A, rank, K), `up`
        (A, N, rank), `scales` (A,). Those of a smaller rank are filled up with zeros."""
        ...

    def adapt(self, y: Array, x: Array, adapters: Array, chosen: Array) -> Array:
        """y (T, N), the matrix's product with x (T, K), plus

            scales[c] * up[c] (down[c] x)

        of each row, c = chosen (T,) int32; -1: the row stays as it is. y may be overwritten."""
        ...


@dataclass(frozen=True, slots=True)
class _Adapters:
    down: Float32
    up: Float32
    scales: Float32


class LowRankSums:
    """The definition, row by row."""

    def adapters(self, down: Float32, up: Float32, scales: Float32) -> Array:
        return _Adapters(*(np.array(part, np.float32) for part in (down, up, scales)))

    def adapt(self, y: Float32, x: Float32, adapters: _Adapters, chosen: Int32) -> Float32:
        out = y.copy()
        for row in np.flatnonzero(chosen >= 0):
            one = chosen[row]
            inner = adapters.down[one] @ x[row]
            out[row] += adapters.scales[one] * (adapters.up[one] @ inner)
        return out
