"""The GPU backend: the plain torch backend with kernels of our own where they are faster.

A method here chooses by shape and device which kernel runs; whatever has none is `PlainOps`'s. Must
not know: which model is running, and how a kernel works.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pagemill.ops.graphs import DecodeGraphs
from pagemill.ops.interface import Array, Sampled, SampleRows, Scoring, Step, Weight
from pagemill.ops.plain import sampling
from pagemill.ops.plain.ahead import Choices
from pagemill.ops.plain.cache import LayerCache
from pagemill.ops.plain.matrices import Matrix
from pagemill.ops.plain.ops import PlainOps
from pagemill.ops.plain.step import DeviceStep

# There are systems, and builds of torch, without Triton: torch's own calls do everything there.
_HAS_TRITON = importlib.util.find_spec("triton") is not None
if _HAS_TRITON:
    from pagemill.ops.products import with_kernels
    from pagemill.ops.triton.decode import paged_decode
    from pagemill.ops.triton.prefill import paged_prefill
    from pagemill.ops.triton.rope_cache import store


class CudaOps(PlainOps):
    """`Ops` on one GPU."""

    name = "cuda"
    keeps_codes = True

    def __init__(
        self, device: str, dtype: torch.dtype, kv_dtype: str = "auto", kernels: bool | None = None
    ) -> None:
        """`kernels`: whether they run, unless given where there is a card. (In Triton's interpreter
        they run anywhere, slowly.)"""
        super().__init__(device, dtype, kv_dtype)
        on_card = self.device.type == "cuda"
        self.has_kernels = _HAS_TRITON and (on_card if kernels is None else kernels)
        self._choices = Choices(self.device)

    def upload(self, weight: Weight, table: bool = False) -> Matrix:
        matrix = super().upload(weight, table)
        return with_kernels(matrix, self.device) if self.has_kernels else matrix

    def compile(self, model: Callable[[Step, Array], Array]) -> DecodeGraphs:
        def of_known_tokens(step: Any, kv: Array) -> Array:
            return model(replace(step, token_ids=self._choices.fill(step.token_ids)), kv)

        return DecodeGraphs(super().compile(of_known_tokens), self.device)

    def sample_later(self, logits: Array, rows: SampleRows) -> Callable[[], Sampled]:
        with torch.inference_mode():
            ids, wait = sampling.begin(logits, rows)
            self._choices.keep(ids)
        return wait

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kv: LayerCache,
        step: DeviceStep,
        scoring: Scoring,
        sinks: Tensor | None = None,
    ) -> Tensor:
        if not self.has_kernels:
            return super().attention(q, k, v, kv, step, scoring, sinks)
        store(k, v, step.slots, kv)  # all rows of the step, before any row attends
        if step.max_take == 1:
            return paged_decode(q, kv, step, scoring, sinks=sinks)
        return paged_prefill(q, kv, step, scoring, sinks=sinks)

    def latent_attention(
        self,
        q: Tensor,
        q_rope: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        kv: LayerCache,
        step: DeviceStep,
        scale: float,
    ) -> Tensor:
        if not self.has_kernels:
            return super().latent_attention(q, q_rope, latent, k_rope, kv, step, scale)
        kv.store_keys(step.slots, torch.cat([latent, k_rope], dim=-1)[:, None])
        queries = torch.cat([q, q_rope], dim=-1)
        attend = paged_decode if step.max_take == 1 else paged_prefill
        return attend(queries, kv, step, Scoring(scale), latent=latent.shape[-1])
