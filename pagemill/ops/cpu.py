"""The CPU backend: the native kernels behind the `Ops` contract.

A model is recorded once (`ops/recorder.py`) and each step is then one native call without the
interpreter lock. Called with numpy arrays, the same methods run one operation at once: tests
compare them with the reference that way. Weights keep their stored bits, repacked; activations of
products with quantized weights are rounded to int8 per row and group of 32 (sampled rows to two
such planes, the second for what the first left over), everything else is float32, and the cache is
fp16 unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pagemill import _native
from pagemill.errors import EngineFailure, Unsupported
from pagemill.ops.interface import (
    Activation,
    Array,
    Float32,
    Rope,
    Sampled,
    SampleRows,
    Scoring,
    Step,
    Weight,
)
from pagemill.ops.recorder import Recorder, Rows, Symbol, SymbolicStep, lower

_FIRST_POSITIONS = 2048  # rows of a rotary table at first; it doubles when a longer sequence comes


@dataclass(frozen=True, eq=False)
class LayerCache:
    """One layer's pages of a native cache."""

    cache: Any
    layer: int


class Cache:
    """Keys and values of all layers: `cache[layer]` is what `attention` takes."""

    def __init__(self, native: Any) -> None:
        self.native = native

    def __getitem__(self, layer: int) -> LayerCache:
        return LayerCache(self.native, layer)

    @property
    def nbytes(self) -> int:
        return int(self.native.bytes)


class _RopeTable:
    """Cosines and sines of float32 angles by position, grown on demand."""

    def __init__(self, rope: Rope) -> None:
        self.inv_freq = np.array(rope.inv_freq, np.float32)
        self.native = _native.rope_table()

    def reach(self, positions: int) -> None:
        size = self.native.positions
        if positions > size:
            self.native.assign(*self._angles(max(positions, 2 * size, _FIRST_POSITIONS)))

    def _angles(self, positions: int) -> tuple[Float32, Float32]:
        angle = np.arange(positions, dtype=np.float32)[:, None] * self.inv_freq
        angle = angle.astype(np.float64)
        return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


class CpuOps:
    """`Ops` on native kernels with `threads` threads.

    isa: "auto" or one of `_native.instruction_sets()`. kv_dtype: "f16" or "f32".
    """

    name = "cpu"

    def __init__(self, threads: int = 1, isa: str = "auto", kv_dtype: str = "f16") -> None:
        self.native = _native.Backend(isa, threads)
        self.isa: str = self.native.isa
        self.kv_dtype = kv_dtype
        self._ropes: dict[Rope, _RopeTable] = {}

    def upload(self, weight: Weight, table: bool = False) -> Array:
        known = _native.matrix_formats()
        for name in weight.formats:
            if name not in known:
                raise Unsupported(
                    f"the cpu backend has no kernel for {name} weights; it has {', '.join(known)}"
                )
        if table and len(set(weight.formats)) > 1:
            raise Unsupported("an embedding table of several formats")
        parts = [
            (f, p.reshape(-1), n)
            for f, p, n in zip(weight.formats, weight.parts, weight.rows, strict=True)
        ]
        return _native.matrix(self.native, parts, weight.shape[1])

    def vector(self, values: Float32) -> Array:
        return _native.vector(np.ascontiguousarray(values, np.float32))

    def new_kv(self, layers: int, num_pages: int, page_size: int, heads: int, dim: int) -> Cache:
        return Cache(
            _native.kv_cache(layers, num_pages, page_size, heads, dim, self.kv_dtype == "f16")
        )

    def compile(self, model: Callable[[Step, Array], Array]) -> Callable[[Step, Array], Array]:
        return _Compiled(self, model)

    def embed(self, ids: Array, table: Array) -> Array:
        if isinstance(ids, np.ndarray):
            step = _bare_step(len(ids), token_ids=ids)
            return self._at_once(lambda _, at: self.embed(at.token_ids, table), [], step)
        return ids.recorder.add("embed", Rows.TOKENS, (table.k,), table=table)

    def linear(self, x: Array, weight: Array) -> Array:
        if isinstance(x, np.ndarray):
            return self._at_once(lambda s, _: self.linear(s[0], weight), [x])
        return x.recorder.add("linear", x.shape[0], (weight.n,), (x,), weight=weight)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        if isinstance(x, np.ndarray):
            return self._at_once(lambda s, _: self.rms_norm(s[0], weight, eps), [x])
        heads = 1 if len(x.shape) == 2 else x.shape[1]
        return x.recorder.add(
            "rms_norm", x.shape[0], x.shape[1:], (x,), weight=weight, eps=eps, heads=heads
        )

    def act_mul(self, gate_up: Array, kind: Activation) -> Array:
        if kind != "silu":
            raise Unsupported(f"the cpu backend has no activation {kind!r}")
        if isinstance(gate_up, np.ndarray):
            return self._at_once(lambda s, _: self.act_mul(s[0], kind), [gate_up])
        inner = (gate_up.shape[1] // 2,)
        return gate_up.recorder.add("silu_mul", gate_up.shape[0], inner, (gate_up,))

    def rope(self, x: Array, positions: Array, rope: Rope) -> Array:
        if isinstance(x, np.ndarray):
            step = _bare_step(len(x), positions=positions)
            return self._at_once(lambda s, at: self.rope(s[0], at.positions, rope), [x], step)
        table = self._ropes.setdefault(rope, _RopeTable(rope))
        rows, heads, dim = x.shape
        return x.recorder.add(
            "rope",
            rows,
            (heads, dim),
            (x,),
            in_place=True,
            heads=heads,
            dim=dim,
            table=table.native,
        )

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        kv: Array,
        step: Step,
        scoring: Scoring,
        sinks: Array | None = None,
    ) -> Array:
        if scoring.window or scoring.softcap or sinks is not None:
            raise Unsupported("the cpu backend has no attention with windows, caps or sinks")
        if isinstance(q, np.ndarray):
            return self._at_once(
                lambda s, at: self.attention(s[0], s[1], s[2], kv, at, scoring),
                [q, k, v],
                step,
                kv.cache,
            )
        rows, heads, dim = q.shape
        inputs = (q, k, v)
        return q.recorder.add(
            "attention",
            rows,
            (heads, dim),
            inputs,
            kv=kv.cache,
            layer=kv.layer,
            heads=heads,
            scale=scoring.scale,
        )

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

    def _at_once(
        self,
        record: Callable[[list[Symbol], Any], Symbol],
        inputs: list[Float32],
        step: Step | None = None,
        cache: Any = None,
    ) -> Float32:
        """Record and run a few operations on numpy arrays."""
        recorder = Recorder()
        symbols = [recorder.add("input", Rows.TOKENS, x.shape[1:]) for x in inputs]
        result = record(symbols, SymbolicStep(recorder))
        if step is None:
            step = _bare_step(len(inputs[0]))
        recording = _Recording(self, recorder, result, cache)
        recording.program.reserve(len(step.token_ids), len(step.out_rows))
        for symbol, x in zip(symbols, inputs, strict=True):
            rows = recording.program.rows(recording.buffers[symbol.node])
            rows[:, : symbol.width] = x.reshape(len(x), -1)
        out = recording.run(step)[:, result.offset : result.offset + result.width]
        return np.array(out).reshape(-1, *result.shape[1:])


class _Recording:
    """A lowered program and what is needed to run it on a step."""

    def __init__(self, ops: CpuOps, recorder: Recorder, result: Symbol, cache: Any) -> None:
        self.ops = ops
        self.cache = cache
        self.program = _native.Program(ops.native)
        self.buffers = lower(recorder, self.program, result)
        self.out = self.buffers[result.base]
        tables = [node.attrs["table"] for node in recorder.nodes if node.op == "embed"]
        self.vocab = min((table.n for table in tables), default=2**31 - 1)

    def run(self, step: Step) -> Float32:
        """Rows of the result's buffer, good until the next run."""
        positions = int(step.kv_lens.max())
        self.ops.reach(positions)
        num_slots = self.cache.num_slots if self.cache is not None else 2**31 - 1
        try:
            self.program.run(
                step.token_ids, step.positions, step.slots, step.row_starts, step.kv_lens,
                step.page_table, step.out_rows, step.page_size, self.vocab, num_slots, positions,
            )  # fmt: skip
        except ValueError as error:
            raise EngineFailure(f"the step is not valid: {error}") from error
        rows: Float32 = self.program.rows(self.out)
        return rows


class _Compiled:
    """A model as a callable of one native call; recorded when first called."""

    def __init__(self, ops: CpuOps, model: Callable[[Step, Array], Array]) -> None:
        self.ops = ops
        self.model = model
        self.recording: _Recording | None = None
        self.width = 0

    def __call__(self, step: Step, kv: Cache) -> Array:
        if self.recording is None or self.recording.cache is not kv.native:
            recorder = Recorder()
            result = self.model(SymbolicStep(recorder), kv)  # type: ignore[arg-type]
            self.recording = _Recording(self.ops, recorder, result, kv.native)
            self.width = result.width
        return self.recording.run(step)[:, : self.width]


def _bare_step(tokens: int, token_ids: Array | None = None, positions: Array | None = None) -> Step:
    """A step for operations that need few of its fields: every token is a row of its own."""
    zeros = np.zeros(tokens, np.int32)
    at = zeros if positions is None else np.ascontiguousarray(positions, np.int32)
    return Step(
        token_ids=zeros if token_ids is None else np.ascontiguousarray(token_ids, np.int32),
        positions=at,
        slots=zeros,
        row_starts=np.arange(tokens + 1, dtype=np.int32),
        kv_lens=at + 1,
        page_table=np.zeros((tokens, 1), np.int32),
        out_rows=zeros[:0],
        page_size=(int(at.max(initial=0)) // 16 + 1) * 16,
    )
