"""The GPU backend: the plain torch backend with kernels of our own where they are faster.

A method here chooses by shape and device which kernel runs; whatever has none is `PlainOps`'s. Must
not know: which model is running, and how a kernel works.
"""

from __future__ import annotations

from pagemill.ops.plain.ops import PlainOps


class CudaOps(PlainOps):
    """`Ops` on one GPU."""

    name = "cuda"
