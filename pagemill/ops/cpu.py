"""The CPU backend: the native kernels behind the `Ops` contract.

A model is recorded once (`ops/recorder.py`) and each step is then one native call without the
interpreter lock: the methods below record. Called with numpy arrays, they also run, one operation
at once: tests compare them with the reference that way. Weights keep their stored bits, repacked;
activations of products with quantized weights are rounded to int8 per row and group of 32 (sampled
rows to two such planes, the second for what the first left over), everything else is float32, and
the cache is fp16 unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pagemill import _native
from pagemill.errors import Unsupported
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
from pagemill.ops.recorder import Rows, Symbol
from pagemill.ops.recording import Compiled, recorded
from pagemill.weights import formats

_KEY_GROUP = 32  # elements of a q8 key that share a scale
_FIRST_POSITIONS = 2048  # rows of a rotary table at first; it doubles when a longer sequence comes


@dataclass(frozen=True, eq=False)
class LayerCache:
    """One layer's part of a native cache."""

    cache: Any
    layer: int


class Cache:
    """Keys and values of all layers, or their recurrent states: `cache[layer]` is what operations
    take."""

    def __init__(self, native: Any) -> None:
        self.native = native

    def __getitem__(self, layer: int) -> LayerCache:
        return LayerCache(self.native, layer)

    @property
    def nbytes(self) -> int:
        return int(self.native.bytes)


class PageCache(Cache):
    """Pages of keys and values. The system gives memory for one when it is first used."""

    def prepare(self, first: int, last: int) -> bool:
        """Take the memory of pages `first` to `last - 1` now. False: this system cannot."""
        return bool(self.native.prepare(first, last))


class _RopeTable:
    """Cosines and sines by position, grown on demand."""

    def __init__(self, rope: Rope) -> None:
        self.rope = rope
        self.native = _native.rope_table()

    def reach(self, positions: int) -> None:
        size = self.native.positions
        if positions > size:
            longer = max(positions, 2 * size, _FIRST_POSITIONS)
            self.native.assign(*rotations(self.rope, longer))


class CpuOps(Alone):
    """`Ops` on native kernels with `threads` threads.

    isa: "auto" or one of `_native.instruction_sets()`. kv_dtype: "f16" (and "auto"), "f32" or "q8".
    """

    name = "cpu"

    def __init__(self, threads: int = 1, isa: str = "auto", kv_dtype: str = "f16") -> None:
        self.native = _native.Backend(isa, threads)
        self.isa: str = self.native.isa
        self.kv_dtype = "f16" if kv_dtype == "auto" else kv_dtype
        self._ropes: dict[Rope, _RopeTable] = {}

    def upload(self, weight: Weight, table: bool = False) -> Array:
        known = _native.matrix_formats()
        parts = []
        for name, part, rows, order in weight.segments:
            if order is not None:
                name, part = formats.in_order(name, part.reshape(rows, -1), order)
            if name not in known:  # of a quantized folder: the nearest that GGUF files have
                name, part = formats.as_gguf(name, part.reshape(rows, -1))
            if name not in known:
                raise Unsupported(
                    f"the cpu backend has no kernel for {name} weights; it has {', '.join(known)}"
                )
            parts.append((name, part.reshape(-1), rows))
        if table and len({name for name, _, _ in parts}) > 1:
            raise Unsupported("an embedding table of several formats")
        return _native.matrix(self.native, parts, weight.shape[1])

    def vector(self, values: Float32) -> Array:
        return _native.vector(np.ascontiguousarray(values, np.float32))

    def new_kv(
        self,
        layers: int,
        num_pages: int,
        page_size: int,
        heads: int,
        dim: int,
        latent: bool = False,
    ) -> PageCache:
        return PageCache(_native.kv_cache(layers, num_pages, page_size, heads, dim, self.kv_dtype))

    def new_state(self, layers: int, slots: int, size: int) -> Cache:
        return Cache(_native.states(layers, slots, size))

    def compile(self, model: Callable[[Step, Array], Array]) -> Callable[[Step, Array], Array]:
        return Compiled(self, model)

    @recorded("token_ids")
    def embed(self, ids: Array, table: Array) -> Array:
        return ids.recorder.add("embed", Rows.TOKENS, (table.k,), table=table, ids=ids.name)

    @recorded()
    def linear(self, x: Array, weight: Array) -> Array:
        x = x.dense()
        if weight.quantized and not x.whole:
            x = x.copy()  # what is rounded to int8 is a whole buffer
        return x.recorder.add("linear", x.shape[0], (weight.n,), (x,), weight=weight)

    @recorded()
    def linear_heads(self, x: Array, weight: Array) -> Array:
        if weight.num_segments > 1:
            raise Unsupported("matrices of heads in several formats")
        x = x.dense()
        inner = (x.shape[1], weight.n // x.shape[1])
        return x.recorder.add("linear_heads", x.shape[0], inner, (x,), weight=weight)

    @recorded()
    def bias(self, x: Array, bias: Array) -> Array:
        return _map("bias", x, vector=bias)

    @recorded()
    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        return _map("rms_norm", x, weight=weight, eps=eps)

    @recorded()
    def layer_norm(self, x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
        return _map("layer_norm", x, weight=weight, shift=bias, eps=eps)

    @recorded()
    def act(self, x: Array, kind: Activation) -> Array:
        if kind == "clamped_silu":
            raise ValueError(f"{kind} needs a second input")
        return _map("curve", x, kind=kind)

    @recorded()
    def act_mul(self, gate_up: Array, kind: Activation) -> Array:
        x = gate_up.dense()
        return x.recorder.add("gate", x.shape[0], (x.shape[1] // 2,), (x,), kind=kind)

    @recorded()
    def gated(self, x: Array, gate: Array, kind: Activation) -> Array:
        inputs = (x.dense(), gate.dense())
        return x.recorder.add("gated", x.shape[0], x.shape[1:], inputs, kind=kind)

    @recorded()
    def sigmoid_mul(self, x: Array, gate: Array) -> Array:
        inputs = (x.dense(), gate.dense())
        return x.recorder.add("sigmoid_mul", x.shape[0], x.shape[1:], inputs)

    @recorded()
    def scale(self, x: Array, factor: float) -> Array:
        return _map("scale", x, factor=factor)

    @recorded()
    def softcap(self, x: Array, cap: float) -> Array:
        return _map("softcap", x, cap=cap)

    @recorded("positions")
    def rope(self, x: Array, positions: Array, rope: Rope) -> Array:
        table = self._ropes.setdefault(rope, _RopeTable(rope)).native
        return x.recorder.add("rope", x.shape[0], x.shape[1:], (x,), in_place=True, table=table)

    @recorded()
    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        kv: Array,
        step: Step,
        scoring: Scoring,
        sinks: Array | None = None,
        rope: Rope | None = None,
    ) -> Array:
        if rope is not None:
            q, k = (self.rope(x, step.positions, rope) for x in (q, k))
        return q.recorder.add(
            "attention",
            q.shape[0],
            q.shape[1:],
            (q.dense(), k.dense(), v.dense()),
            kv=kv.cache,
            layer=kv.layer,
            scoring=(scoring.scale, scoring.window, scoring.softcap),
            sinks=sinks,
        )

    @recorded()
    def latent_attention(
        self,
        q: Array,
        q_rope: Array,
        latent: Array,
        k_rope: Array,
        kv: Array,
        step: Step,
        scale: float,
    ) -> Array:
        if self.kv_dtype == "q8" and latent.shape[1] % _KEY_GROUP:
            raise Unsupported(
                f"a q8 cache of latent vectors of {latent.shape[1]} elements, which is no multiple "
                f"of {_KEY_GROUP}; --kv-cache-dtype f16 keeps any"
            )
        inputs = (q.dense(), q_rope, latent.dense(), k_rope.dense())
        attrs = {"kv": kv.cache, "layer": kv.layer, "scoring": (scale, 0, 0.0)}
        return q.recorder.add("latent_attention", q.shape[0], q.shape[1:], inputs, **attrs)

    @recorded()
    def dense_attention(self, q: Array, k: Array, v: Array, step: Step, scoring: Scoring) -> Array:
        inputs = (q.dense(), k.dense(), v.dense())
        numbers = (scoring.scale, scoring.window, scoring.softcap)
        return q.recorder.add("dense_attention", q.shape[0], q.shape[1:], inputs, scoring=numbers)

    @recorded()
    def experts(
        self,
        x: Array,
        router: Array,
        routing: Routing,
        gate_up: Sequence[Array],
        down: Sequence[Array],
        *,
        selection_bias: Array | None = None,
        gate_up_bias: Sequence[Array] | None = None,
        down_bias: Sequence[Array] | None = None,
    ) -> Array:
        for name, matrices in (("gate_up", gate_up), ("down", down)):
            if len({(w.quantized, w.num_segments) for w in matrices}) > 1:
                raise Unsupported(f"experts whose {name} differ in format")
            if any(w.quantized and w.dense for w in matrices):
                raise Unsupported(f"experts whose {name} are partly quantized")
        x = x.dense()
        if gate_up[0].quantized and not x.whole:
            x = x.copy()
        return x.recorder.add(
            "experts",
            x.shape[0],
            x.shape[1:],
            (x, router.dense()),
            routing=routing,
            gate_up=list(gate_up),
            down=list(down),
            selection_bias=selection_bias,
            gate_up_bias=list(gate_up_bias or ()),
            down_bias=list(down_bias or ()),
        )

    @recorded()
    def short_conv(
        self, x: Array, weight: Array, bias: Array | None, state: Array, step: Step
    ) -> Array:
        attrs = {"weight": weight, "bias": bias, "state": state}
        return x.recorder.add("short_conv", x.shape[0], x.shape[1:], (x,), **attrs)

    @recorded()
    def mamba2(
        self,
        x: Array,
        dt: Array,
        b: Array,
        c: Array,
        a: Array,
        d: Array,
        state: Array,
        step: Step,
    ) -> Array:
        inputs = (x.dense(), dt, b.dense(), c.dense())
        attrs = {"a": a, "d": d, "state": state}
        return x.recorder.add("mamba2", x.shape[0], x.shape[1:], inputs, **attrs)

    @recorded()
    def pool(self, x: Array, step: Step, kind: Pooling) -> Array:
        x = x.dense()
        return x.recorder.add("pool", Rows.SAMPLED, x.shape[1:], (x,), kind=kind)

    @recorded()
    def normalize(self, x: Array) -> Array:
        return _map("normalize", x)

    def fetch(self, x: Array) -> Float32:
        return np.asarray(x, np.float32)

    def sample(self, logits: Array, rows: SampleRows) -> Sampled:
        count, vocab = logits.shape
        most = int(rows.num_logprobs.max(initial=0))
        sampled = Sampled(
            ids=np.empty(count, np.int32),
            logprobs=np.zeros(count, np.float32),
            top_ids=np.full((count, most), -1, np.int32),
            top_logprobs=np.full((count, most), -np.inf, np.float32),
        )
        _native.sample(
            self.native, logits, vocab,
            rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.seeds, rows.positions,
            rows.num_logprobs, rows.edit_starts, rows.edit_ids, rows.edit_mul, rows.edit_add,
            sampled.ids, sampled.logprobs, sampled.top_ids, sampled.top_logprobs,
        )  # fmt: skip
        return sampled

    def reach(self, positions: int) -> None:
        """Make every rotary table at least that long."""
        for table in self._ropes.values():
            table.reach(positions)


def _map(op: str, x: Symbol, **attrs: Any) -> Symbol:
    """Record an operation whose result has the shape of its input."""
    x = x.dense()
    return x.recorder.add(op, x.shape[0], x.shape[1:], (x,), **attrs)
