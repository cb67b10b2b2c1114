"""What a network takes on the CPU backend, before a byte of its weights is read.

The network is built and recorded as `ops/cpu.py` does it, over weights that have a shape and a
format but no contents, and lowered to a program that counts its buffers. So a new network, format
or operation is planned for without another line here; only the sizes of buffers are stated twice,
here and in native/program.cpp, and a test compares them.

Must not know: which model is recorded, and how much of anything a step will have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pagemill import _native
from pagemill.errors import Unsupported
from pagemill.ops.cpu import CpuOps, LayerCache
from pagemill.ops.interface import Array, Float32, Step, Weight
from pagemill.ops.lowering import lower
from pagemill.ops.recorder import Recorder, SymbolicStep
from pagemill.types import Footprint, KeptWeights
from pagemill.weights import formats

_GROUP, _LINE = 32, 16  # inputs that share a scale; floats of a cache line
_GROUP_BYTES = _GROUP + 16  # int8, and what undoes the rounding
_PAGE_SIZE = 16
_QUERY_ROWS = 16  # the most that an attention kernel has in hand
_SEGMENT = 1024  # tokens of history that it weighs at once
_DENSE = ("F32", "F16", "BF16")
_LARGER = 1.1  # from here on it is worth saying that a format takes more memory than its file
_LARGE = (1024, 4096)  # a matrix whose padding is no matter


@dataclass(frozen=True, eq=False)
class _Matrix:
    """What lowering asks of a native matrix."""

    n: int
    k: int
    segments: tuple[str, ...]

    @property
    def num_segments(self) -> int:
        return len(self.segments)

    @property
    def quantized(self) -> bool:
        return any(form not in _DENSE for form in self.segments)

    @property
    def dense(self) -> bool:
        return any(form in _DENSE for form in self.segments)


class _Cache:
    """Stands for a cache of any size."""

    def __getitem__(self, layer: int) -> LayerCache:
        return LayerCache(self, layer)


class _Buffers:
    """Takes the place of a native program and keeps the sizes of its buffers only."""

    def __init__(self) -> None:
        self._buffers: list[tuple[int, bool, int, int]] = []  # width, sampled, repeat, planes
        self._int8: set[int] = set()
        self._no_floats: set[int] = set()
        self._routes = 0
        self.scratch_dim = 0  # of heads that attend, at most
        self.text_dim = 0  # of heads whose keys are packed for each text

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Instructions that say nothing of buffers."""
        return lambda *args: None

    def buffer(self, width: int, sampled: bool, repeat: int, planes: int) -> int:
        self._buffers.append((width, sampled, repeat, planes))
        return len(self._buffers) - 1

    def quantize(self, x: tuple[int, int], width: int) -> None:
        self._int8.add(x[0])

    def linear_curve(self, *args: Any) -> None:
        self._written(*args[-2:])

    def linear_gate(self, *args: Any) -> None:
        self._written(*args[-2:])

    def experts_gate(self, *args: Any) -> None:
        self._written(*args[-2:])

    def linear_heads(self, x: Any, heads: int, weight: Any, between: int, out: Any) -> None:
        if between >= 0:
            self._int8.add(between)
            self._no_floats.add(between)

    def route(self, *args: Any) -> int:
        self._routes += 1
        return self._routes - 1

    def spread(self, *args: Any) -> None:
        out, quantized = args[-2:]
        self._written(out, quantized)
        if quantized:
            self._no_floats.add(out[0])

    def attend(self, *args: Any) -> None:
        self._written(*args[-2:])

    def attend_dense(self, *args: Any) -> None:
        dim, (out, quantized) = args[5], args[-2:]
        self.text_dim = max(self.text_dim, dim)
        self._written(out, quantized)

    def _written(self, out: tuple[int, int], quantized: bool) -> None:
        if quantized:
            self._int8.add(out[0])

    def row_bytes(self, sampled: bool) -> int:
        """Of all buffers, for each token or each sampled row."""
        total = 0
        for index, (width, of_sampled, repeat, planes) in enumerate(self._buffers):
            if of_sampled == sampled:
                groups = -(-width // _GROUP)
                lines = groups * _GROUP // _LINE
                floats = 0 if index in self._no_floats else (lines | 1) * _LINE * 4
                int8 = planes * groups * _GROUP_BYTES if index in self._int8 else 0
                total += (floats + int8) * repeat
        return total


class OutlineOps(CpuOps):
    """`CpuOps` that keep no weights, count them, and compute nothing."""

    def __init__(self, kv_dtype: str = "f16") -> None:
        super().__init__(1, _native.instruction_sets()[-1], kv_dtype)
        self._kept: Counter[tuple[str, str]] = Counter()
        self._stored: Counter[tuple[str, str]] = Counter()
        self._kv_bytes = 0
        self._state_bytes = 0
        self._head_dim = 0
        self._vectors = 0

    def upload(self, weight: Weight, table: bool = False) -> Array:
        known = _native.matrix_formats()
        segments: list[tuple[str, int]] = []
        for name, part, rows, order in weight.segments:
            kept = name
            if order is not None:
                kept = formats.IN_ORDER
            elif name not in known:
                kept, _ = formats.as_gguf(name, part.reshape(rows, -1)[:1])
            if kept not in known:
                raise Unsupported(
                    f"the cpu backend has no kernel for {name} weights; it has {', '.join(known)}"
                )
            before = 0
            if segments and segments[-1][0] == kept:  # neighbours share tiles
                before = segments.pop()[1]
            segments.append((kept, before + rows))
            self._stored[name, kept] += part.size
            self._kept[name, kept] += self._packed(kept, before + rows, weight.shape[1])
            self._kept[name, kept] -= self._packed(kept, before, weight.shape[1])
        n, k = weight.shape
        return _Matrix(n, k, tuple(name for name, _ in segments))

    @staticmethod
    def _packed(form: str, rows: int, k: int) -> int:
        return int(_native.packed_bytes(form, rows, k)) if rows else 0

    def vector(self, values: Float32) -> Array:
        self._vectors += 4 * len(values)
        return values.tolist()

    def new_kv(
        self,
        layers: int,
        num_pages: int,
        page_size: int,
        heads: int,
        dim: int,
        latent: bool = False,
    ) -> Any:
        self._head_dim = max(self._head_dim, dim)
        self._kv_bytes += layers * _native.kv_token_bytes(heads, dim, self.kv_dtype)
        return _Cache()

    def new_state(self, layers: int, slots: int, size: int) -> Any:
        self._state_bytes += layers * slots * (-(-size // _LINE) * _LINE) * 4
        return _Cache()

    def footprint(self, model: Any, vocab_size: int) -> Footprint:
        """Of a network that was built on these operations."""
        kv = model.new_kv(1, _PAGE_SIZE, 1)
        recorder, buffers = Recorder(), _Buffers()
        network: Callable[[Step, Any], Any] = model
        result = network(SymbolicStep(recorder), kv)  # type: ignore[arg-type]
        lower(recorder, buffers, result.dense())
        dim = max(self._head_dim, buffers.text_dim)
        scratch = (_QUERY_ROWS * (_SEGMENT * 3 // 2 + 3 * dim + 64) + _SEGMENT) * 4
        return Footprint(
            weights=tuple(self._weights()),
            vector_bytes=self._vectors,
            kv_token_bytes=self._kv_bytes,
            state_bytes=self._state_bytes,
            token_bytes=buffers.row_bytes(sampled=False),
            sampled_bytes=buffers.row_bytes(sampled=True),
            thread_bytes=scratch + 4 * vocab_size,  # sampling weighs each token
            text_token_bytes=8 * buffers.text_dim,
            position_bytes=sum(8 * len(rope.inv_freq) for rope in self._ropes),
        )

    def _weights(self) -> Iterator[KeptWeights]:
        """Of each format. One that has a kernel is kept as it is, unless codes of a whole number of
        bits take clearly more than the file."""
        code_bits = {form: bits for form, _, bits, _, _ in _native.matrix_kinds()}
        rows, k = _LARGE
        for (name, kept), size in self._kept.items():
            larger = self._packed(kept, rows, k) > _LARGER * rows * formats.bytes_per_row(name, k)
            kept_as = f"{code_bits[name]}-bit codes" if larger and name == kept else kept
            yield KeptWeights(name, kept_as, self._stored[name, kept], size)
