"""The GPU backend: the plain torch backend with kernels of our own where they are faster.

A method here chooses by shape and device which kernel runs; whatever has none is `PlainOps`'s. Must
not know: which model is running, and how a kernel works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pagemill.ops.graphs import DecodeGraphs
from pagemill.ops.interface import Array, Sampled, SampleRows, Step
from pagemill.ops.plain import sampling
from pagemill.ops.plain.ahead import Choices
from pagemill.ops.plain.ops import PlainOps


class CudaOps(PlainOps):
    """`Ops` on one GPU."""

    name = "cuda"

    def __init__(self, device: str, dtype: torch.dtype, kv_dtype: str = "auto") -> None:
        super().__init__(device, dtype, kv_dtype)
        self._choices = Choices(self.device)

    def compile(self, model: Callable[[Step, Array], Array]) -> DecodeGraphs:
        def of_known_tokens(step: Any, kv: Array) -> Array:
            return model(replace(step, token_ids=self._choices.fill(step.token_ids)), kv)

        return DecodeGraphs(super().compile(of_known_tokens), self.device)

    def sample_later(self, logits: Array, rows: SampleRows) -> Callable[[], Sampled]:
        with torch.inference_mode():
            ids, wait = sampling.begin(logits, rows)
            self._choices.keep(ids)
        return wait
