"""The plain torch backend: every operation by calls of torch's own, on any device it has.

Arrays between operations are tensors of one type; norms, activations, softmax and recurrences are
computed in float32 inside. Must not know: which model is running.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pagemill.ops.alone import Alone
from pagemill.ops.angles import rotations
from pagemill.ops.interface import (
    Activation,
    Array,
    Float32,
    Pooling,
    Rope,
    Routing,
    Sampled,
    SampleRows,
    Scoring,
    Step,
    Weight,
)
from pagemill.ops.plain import attention, experts, low_rank, matrices, recurrence, sampling
from pagemill.ops.plain.cache import KV_DTYPES, Cache, LayerCache, new_pages
from pagemill.ops.plain.device import describe
from pagemill.ops.plain.hosted import HostLayers
from pagemill.ops.plain.low_rank import Adapters
from pagemill.ops.plain.matrices import Matrix
from pagemill.ops.plain.step import DeviceStep, to_device

_FIRST_POSITIONS = 2048  # rows of a rotary table at first; it doubles when a longer sequence comes


class RopeTable:
    """Cosines and sines (positions, half) of float32 angles, grown on demand."""

    def __init__(self, rope: Rope, positions: int, device: torch.device) -> None:
        self._rope, self._device = rope, device
        self.half = len(rope.inv_freq)
        self.reach(positions)

    def reach(self, positions: int) -> None:
        cos, sin = rotations(self._rope, positions)
        self.cos, self.sin = (torch.from_numpy(table).to(self._device) for table in (cos, sin))


class PlainOps(Alone):
    """`Ops` over tensors of `dtype` on `device`. `kv_dtype`: "auto" (that of the model) or one of
    `cache.KV_DTYPES`."""

    name = "torch"
    keeps_codes = False  # quantized matrices stay quantized; unpacked they are multiplied sooner

    def __init__(self, device: str, dtype: torch.dtype, kv_dtype: str = "auto") -> None:
        self.device, self.dtype = torch.device(device), dtype
        self.kv_dtype = dtype if kv_dtype == "auto" else KV_DTYPES[kv_dtype]
        self.isa = describe(self.device, dtype)  # what people are told computes
        self._ropes: dict[Rope, RopeTable] = {}
        self._positions = _FIRST_POSITIONS
        self.host: HostLayers | None = None  # has the weights of layers that do not fit

    def upload(self, weight: Weight, table: bool = False) -> Matrix:
        if self.host is not None and self.host.has(weight.layer):
            stays = matrices.upload(weight, torch.device("cpu"), self.dtype, self.keeps_codes)
            there: Matrix = self.host.take(weight.layer, stays)
            return there
        return matrices.upload(weight, self.device, self.dtype, self.keeps_codes)

    def vector(self, values: Float32) -> Tensor:
        return torch.tensor(np.asarray(values, np.float32), device=self.device)

    def new_kv(
        self,
        layers: int,
        num_pages: int,
        page_size: int,
        heads: int,
        dim: int,
        latent: bool = False,
    ) -> Cache:
        shape = (num_pages, page_size, heads, dim)
        return Cache([new_pages(shape, self.device, self.kv_dtype, latent) for _ in range(layers)])

    def new_state(self, layers: int, slots: int, size: int) -> Cache:
        # One slot more: rows that only fill a batch up write to slot -1.
        return Cache([torch.zeros((slots + 1, size), device=self.device) for _ in range(layers)])

    def compile(self, model: Callable[[Step, Array], Array]) -> Callable[[Step, Array], Array]:
        """The model on numpy steps; its results stay on the device."""

        def run(step: Step, kv: Array) -> Array:
            there = step if isinstance(step, DeviceStep) else to_device(step, self.device)
            self.reach(there.max_kv_len)
            with torch.inference_mode():
                return model(there, kv)

        return run

    def reach(self, positions: int) -> None:
        """Make every rotary table, and those to come, at least that long."""
        if positions > self._positions:
            self._positions = max(positions, 2 * self._positions)
            for table in self._ropes.values():
                table.reach(self._positions)

    def rope_table(self, rope: Rope) -> RopeTable:
        """Made when it is first asked for."""
        if rope not in self._ropes:
            self._ropes[rope] = RopeTable(rope, self._positions, self.device)
        return self._ropes[rope]

    def embed(self, ids: Tensor, table: Matrix) -> Tensor:
        return table.rows(ids)

    def linear(self, x: Tensor, weight: Matrix) -> Tensor:
        return weight.product(x)

    def linear_heads(self, x: Tensor, weight: Matrix) -> Tensor:
        of_heads = matrices.of_heads(weight, x.shape[1], self.device)  # (H, N, K)
        return torch.bmm(x.transpose(0, 1), of_heads.transpose(1, 2)).transpose(0, 1)

    def bias(self, x: Tensor, bias: Tensor) -> Tensor:
        return (x + bias).to(x.dtype)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps)
        return (y * weight.view(-1, x.shape[-1])).to(x.dtype)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        return functional.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)

    def act(self, x: Tensor, kind: Activation) -> Tensor:
        return _activation(x.float(), kind).to(x.dtype)

    def act_mul(self, gate_up: Tensor, kind: Activation) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return self.gated(up, gate, kind)

    def gated(self, x: Tensor, gate: Tensor, kind: Activation) -> Tensor:
        up, gate = x.float(), gate.float()
        if kind == "clamped_silu":
            gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0) + 1
            return (gate * torch.sigmoid(1.702 * gate) * up).to(x.dtype)
        return (_activation(gate, kind) * up).to(x.dtype)

    def sigmoid_mul(self, x: Tensor, gate: Tensor) -> Tensor:
        return (x.float() * torch.sigmoid(gate.float())).to(x.dtype)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return (x.float() * factor).to(x.dtype)

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return (cap * torch.tanh(x.float() / cap)).to(x.dtype)

    def rope(self, x: Tensor, positions: Tensor, rope: Rope) -> Tensor:
        table = self.rope_table(rope)
        cos, sin = (part[positions][:, None] for part in (table.cos, table.sin))  # (T, 1, half)
        half = table.half
        a, b, rest = x[..., :half].float(), x[..., half : 2 * half].float(), x[..., 2 * half :]
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
        return torch.cat([turned, rest], dim=-1)

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
        if rope is not None:
            q, k = (self.rope(x, step.positions, rope) for x in (q, k))
        kv.store(step.slots, k, v)  # all rows of the step, before any row attends
        return attention.paged(q, kv, step, scoring, sinks)

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
        kv.store_keys(step.slots, torch.cat([latent, k_rope], dim=-1)[:, None])
        queries = torch.cat([q, q_rope], dim=-1)
        return attention.latent(queries, kv, step, scale, latent.shape[-1])

    def dense_attention(
        self, q: Tensor, k: Tensor, v: Tensor, step: DeviceStep, scoring: Scoring
    ) -> Tensor:
        return attention.dense(q, k, v, step, scoring)

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
        chosen, weights = experts.route(router, routing, selection_bias)
        act_mul = partial(self.act_mul, kind=routing.activation)
        biases = (gate_up_bias, down_bias)
        return experts.mixture(x, chosen, weights, gate_up, down, biases, act_mul)

    def adapters(self, down: Float32, up: Float32, scales: Float32) -> Adapters:
        first, second = (self.vector(part).to(self.dtype) for part in (down, up))
        return Adapters(first, second, self.vector(scales))

    def adapt(self, y: Tensor, x: Tensor, adapters: Adapters, chosen: Tensor) -> Tensor:
        return low_rank.adapt(y, x, adapters, chosen)

    def short_conv(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, step: DeviceStep
    ) -> Tensor:
        return recurrence.short_conv(x, weight, bias, state, step)

    def mamba2(
        self,
        x: Tensor,
        dt: Tensor,
        b: Tensor,
        c: Tensor,
        a: Tensor,
        d: Tensor,
        state: Tensor,
        step: DeviceStep,
    ) -> Tensor:
        return recurrence.mamba2(x, dt, b, c, a, d, state, step)

    def pool(self, x: Tensor, step: DeviceStep, kind: Pooling) -> Tensor:
        last = step.out_rows.long()
        if kind == "last":
            return x[last]
        starts = step.row_starts.long()
        row = torch.searchsorted(starts[1:], last, right=True)
        if kind == "cls":
            return x[starts[row]]
        of_token = torch.searchsorted(starts[1:], torch.arange(len(x), device=x.device), right=True)
        sums = torch.zeros((step.num_rows, x.shape[1]), device=x.device)
        sums.index_add_(0, of_token, x.float())
        count = (starts[1:] - starts[:-1])[:, None]
        return (sums / count)[row].to(x.dtype)

    def normalize(self, x: Tensor) -> Tensor:
        y = x.float()
        length = y.square().sum(dim=-1, keepdim=True).sqrt()
        return torch.where(length > 0, y / length, 0.0).to(x.dtype)

    def fetch(self, x: Tensor) -> Float32:
        result: Float32 = x.float().cpu().numpy()
        return result

    def sample(self, logits: Tensor, rows: SampleRows) -> Sampled:
        with torch.inference_mode():
            return sampling.sample(logits, rows)


def _activation(x: Tensor, kind: Activation) -> Tensor:
    match kind:
        case "silu":
            return functional.silu(x)
        case "gelu":
            return functional.gelu(x)
        case "gelu_tanh":
            return functional.gelu(x, approximate="tanh")
        case "relu":
            return functional.relu(x)
        case "tanh":
            return torch.tanh(x)
    raise ValueError(f"{kind} needs a second input")
