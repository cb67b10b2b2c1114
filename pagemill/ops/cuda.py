"""The GPU backend: the plain torch backend with kernels of our own where they are faster.

A method here chooses by shape and device which kernel runs; whatever has none is `PlainOps`'s. Must
not know: which model is running, and how a kernel works.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pagemill.ops.graphs import DecodeGraphs
from pagemill.ops.interface import (
    Activation,
    Array,
    Rope,
    Routing,
    Sampled,
    SampleRows,
    Scoring,
    Step,
    Weight,
)
from pagemill.ops.plain import sampling
from pagemill.ops.plain.ahead import Choices
from pagemill.ops.plain.cache import LayerCache
from pagemill.ops.plain.low_rank import Adapters
from pagemill.ops.plain.matrices import Matrix
from pagemill.ops.plain.ops import PlainOps
from pagemill.ops.plain.step import DeviceStep
from pagemill.ops.residual import Residual, normed, whole

# There are systems, and builds of torch, without Triton: torch's own calls do everything there.
_HAS_TRITON = importlib.util.find_spec("triton") is not None
if _HAS_TRITON:
    from pagemill.ops.expert_products import Experts, as_one
    from pagemill.ops.products import with_kernels
    from pagemill.ops.triton import gates, grouped, lora, norms, rope_cache
    from pagemill.ops.triton import sampling as choosing
    from pagemill.ops.triton.card import runs_kernels
    from pagemill.ops.triton.decode import paged_decode
    from pagemill.ops.triton.prefill import paged_prefill
    from pagemill.ops.triton.routing import route


class CudaOps(PlainOps):
    """`Ops` on one GPU."""

    name = "cuda"
    keeps_codes = True

    def __init__(
        self, device: str, dtype: torch.dtype, kv_dtype: str = "auto", kernels: bool | None = None
    ) -> None:
        """`kernels`: whether they run, unless given where a card takes them. (In Triton's
        interpreter they run anywhere, slowly.) Unsupported where it should and cannot."""
        super().__init__(device, dtype, kv_dtype)
        self.has_kernels = _HAS_TRITON and (
            runs_kernels(self.device) if kernels is None else kernels
        )
        self.choices = Choices(self.device)
        # By the first of those that were put together, which keeps its number while it is here.
        self._experts: dict[int, tuple[Matrix, Experts | None]] = {}
        self._biases: dict[int, tuple[Tensor, Tensor]] = {}

    def upload(self, weight: Weight, table: bool = False) -> Matrix:
        matrix = super().upload(weight, table)
        return with_kernels(matrix, self.device) if self.has_kernels else matrix

    def compile(self, model: Callable[[Step, Array], Array]) -> DecodeGraphs:
        def of_known_tokens(step: Any, kv: Array) -> Array:
            return model(replace(step, token_ids=self.choices.fill(step.token_ids)), kv)

        return DecodeGraphs(super().compile(of_known_tokens), self.device)

    def sample(self, logits: Array, rows: SampleRows) -> Sampled:
        with torch.inference_mode():
            return sampling.begin(logits, rows, self._choose)[1]()

    def sample_later(self, logits: Array, rows: SampleRows) -> Callable[[], Sampled]:
        with torch.inference_mode():
            ids, wait = sampling.begin(logits, rows, self._choose)
            self.choices.keep(ids)
        return wait

    def _choose(self, logits: Tensor, knobs: sampling.Knobs) -> Tensor:
        if not self.has_kernels:
            return sampling.choose(logits, knobs)
        return choosing.sample(
            sampling.edited(logits, knobs),
            knobs.temperature,
            knobs.top_k,
            knobs.top_p,
            knobs.min_p,
            knobs.seeds,
            knobs.positions,
            draws=knobs.random,
        )

    def linear(self, x: Tensor | Residual, weight: Matrix) -> Tensor:
        return super().linear(whole(x), weight)

    def residual(self, x: Tensor) -> Tensor | Residual:
        return Residual(x) if self.has_kernels else x

    def rms_norm(self, x: Tensor | Residual, weight: Tensor, eps: float) -> Tensor:
        if not self.has_kernels or x.shape[-1] > norms.LONGEST_ROW:
            return super().rms_norm(whole(x), weight, eps)
        return normed(x, partial(norms.rms_norm, weight=weight, eps=eps))

    def layer_norm(
        self, x: Tensor | Residual, weight: Tensor, bias: Tensor | None, eps: float
    ) -> Tensor:
        if not self.has_kernels or x.shape[-1] > norms.LONGEST_ROW:
            return super().layer_norm(whole(x), weight, bias, eps)
        return normed(x, partial(norms.layer_norm, weight=weight, shift=bias, eps=eps))

    def gated(self, x: Tensor, gate: Tensor, kind: Activation) -> Tensor:
        if not self.has_kernels:
            return super().gated(x, gate, kind)
        return gates.gated(x, gate, kind)

    def sigmoid_mul(self, x: Tensor, gate: Tensor) -> Tensor:
        if not self.has_kernels:
            return super().sigmoid_mul(x, gate)
        return gates.sigmoid_mul(x, gate)

    def rope(self, x: Tensor, positions: Tensor, rope: Rope) -> Tensor:
        if not self.has_kernels:
            return super().rope(x, positions, rope)
        table = self.rope_table(rope)
        return rope_cache.rope(x, table.cos, table.sin, positions)

    def experts(
        self,
        x: Tensor,
        router: Tensor,
        routing: Routing,
        gate_up: Sequence[Matrix],
        down: Sequence[Matrix],
        *,
        selection_bias: Tensor | None = None,
        gate_up_bias: Sequence[Tensor] | None = None,
        down_bias: Sequence[Tensor] | None = None,
    ) -> Tensor:
        x = whole(x)
        first, second = self._as_one(gate_up), self._as_one(down)
        if first is None or second is None:
            return super().experts(
                x,
                router,
                routing,
                gate_up,
                down,
                selection_bias=selection_bias,
                gate_up_bias=gate_up_bias,
                down_bias=down_bias,
            )
        chosen, weights = route(router, routing, selection_bias)
        routes = grouped.sorted_routes(chosen, len(gate_up))
        biases = [None if b is None else self._stacked(b) for b in (gate_up_bias, down_bias)]
        inner = first.product(x, routes, biases[0], gather=True)
        inner = self.act_mul(inner, routing.activation)
        y = second.product(inner, routes, biases[1], gather=False)
        return grouped.combined(y, routes, weights)

    def _as_one(self, matrices: Sequence[Matrix]) -> Experts | None:
        """Experts' matrices for one launch, found again by the first of them. Layers whose weights
        come from the host share tensors, which cannot be put together."""
        if not self.has_kernels or self.host is not None:
            return None
        first = matrices[0]
        if id(first) not in self._experts:
            self._experts[id(first)] = (first, as_one(matrices, self.device))
        return self._experts[id(first)][1]

    def _stacked(self, biases: Sequence[Tensor]) -> Tensor:
        first = biases[0]
        if id(first) not in self._biases:
            self._biases[id(first)] = (first, torch.stack(list(biases)))
        return self._biases[id(first)][1]

    def adapt(self, y: Tensor, x: Tensor, adapters: Adapters, chosen: Tensor) -> Tensor:
        if not self.has_kernels:
            return super().adapt(y, x, adapters, chosen)
        routes, y = lora.adapter_routes(chosen, len(adapters.down)), y.contiguous()
        lora.expand(y, lora.shrink(x, adapters.down, routes), adapters.up, adapters.scales, routes)
        return y

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kv: LayerCache,
        step: DeviceStep,
        scoring: Scoring,
        sinks: Tensor | None = None,
        rope: Rope | None = None,
    ) -> Tensor:
        if not self.has_kernels:
            return super().attention(q, k, v, kv, step, scoring, sinks, rope)
        # All rows of the step are stored before any row attends.
        if rope is None:
            rope_cache.store(k, v, step.slots, kv)
        else:
            table, at = self.rope_table(rope), step.positions
            q = rope_cache.rope_and_store(q, k, v, table.cos, table.sin, at, step.slots, kv)
        return _attend(q, kv, step, scoring, sinks)

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
        return _attend(queries, kv, step, Scoring(scale), latent=latent.shape[-1])


def _attend(
    q: Tensor,
    kv: LayerCache,
    step: DeviceStep,
    scoring: Scoring,
    sinks: Tensor | None = None,
    latent: int = 0,
) -> Tensor:
    """Rows of one token go to the kernel that splits histories, wherever they come: among parts of
    prompts, one long history would keep all others waiting."""
    if step.max_take == 1:
        return paged_decode(q, kv, step, scoring, sinks=sinks, latent=latent)
    singles = any(group.take == 1 for group in step.groups)
    out = paged_prefill(q, kv, step, scoring, sinks=sinks, latent=latent, singles=not singles)
    if singles:
        paged_decode(q, kv, step, scoring, sinks=sinks, latent=latent, into=out)
    return out
