"""Types of the native module; `native/bindings.cpp` is its text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]
_View = tuple[int, int]  # buffer, offset in floats

class Backend:
    isa: str
    threads: int
    def __init__(self, isa: str, threads: int) -> None: ...

class Matrix:
    n: int
    k: int
    bytes: int
    quantized: bool
    dense: bool
    num_segments: int

class Vector:
    def __len__(self) -> int: ...

class RopeTable:
    positions: int
    def assign(self, cos: _Floats, sin: _Floats) -> None: ...

class KvCache:
    bytes: int
    layers: int
    page_size: int
    num_slots: int

class States:
    bytes: int

class Program:
    arena_bytes: int
    def __init__(self, backend: Backend) -> None: ...
    def buffer(self, width: int, sampled: bool, repeat: int, planes: int) -> int: ...
    def embed(self, ids: str, table: Matrix, out: _View) -> None: ...
    def rms_norm(
        self, x: _View, weight: Vector, eps: float, width: int, heads: int, out: _View
    ) -> None: ...
    def layer_norm(
        self, x: _View, weight: Vector, shift: Vector | None, eps: float, heads: int, out: _View
    ) -> None: ...
    def normalize(self, x: _View, width: int, heads: int, out: _View) -> None: ...
    def curve(self, x: _View, kind: str, width: int, out: _View) -> None: ...
    def gate(self, gates: _View, x: _View, kind: str, width: int, out: _View) -> None: ...
    def sigmoid_mul(
        self, x: _View, gates: _View, one_gate: bool, width: int, out: _View
    ) -> None: ...
    def scale(self, x: _View, factor: float, width: int, out: _View) -> None: ...
    def softcap(self, x: _View, cap: float, width: int, out: _View) -> None: ...
    def bias(self, x: _View, values: Vector, heads: int, out: _View) -> None: ...
    def add(self, a: _View, b: _View, width: int, out: _View) -> None: ...
    def copy(
        self, x: _View, heads: int, width: int, from_stride: int, out: _View, to_stride: int
    ) -> None: ...
    def rope(self, x: _View, heads: int, stride: int, table: RopeTable) -> None: ...
    def quantize(self, x: _View, width: int) -> None: ...
    def gather(self, x: _View, width: int, out: _View) -> None: ...
    def pool(self, x: _View, kind: str, width: int, out: _View) -> None: ...
    def linear(self, x: _View, weight: Matrix, bias: Vector | None, out: _View) -> None: ...
    def linear_curve(
        self, x: _View, weight: Matrix, bias: Vector | None, kind: str, out: _View, quantized: bool
    ) -> None: ...
    def linear_gate(
        self, x: _View, weight: Matrix, bias: Vector | None, kind: str, between: int, out: _View,
        quantized: bool,
    ) -> None: ...  # fmt: skip
    def linear_heads(
        self, x: _View, heads: int, weight: Matrix, between: int, out: _View
    ) -> None: ...
    def route(
        self, logits: _View, experts: int,
        routing: tuple[int, bool, bool, float, int, int, bool], selection_bias: Vector | None,
        scores: int,
    ) -> int: ...  # fmt: skip
    def spread(self, x: _View, width: int, routes: int, out: _View, quantized: bool) -> None: ...
    def experts_linear(
        self, x: _View, weights: Sequence[Matrix], biases: Sequence[Vector], routes: int, out: _View
    ) -> None: ...
    def experts_gate(
        self, x: _View, weights: Sequence[Matrix], biases: Sequence[Vector], kind: str, routes: int,
        between: int, out: _View, quantized: bool,
    ) -> None: ...  # fmt: skip
    def combine(self, x: _View, width: int, routes: int, out: _View) -> None: ...
    def store_latent(
        self, latent: _View, width: int, rope: _View, kv: KvCache, layer: int
    ) -> None: ...
    def store_kv(self, k: _View, v: _View, kv: KvCache, layer: int) -> None: ...
    def attend(
        self, q: _View, heads: int, kv: KvCache, layer: int, value_dim: int,
        scoring: tuple[float, int, float], sinks: Vector | None, out: _View, quantized: bool,
    ) -> None: ...  # fmt: skip
    def attend_dense(
        self, q: _View, k: _View, v: _View, heads: int, kv_heads: int, dim: int,
        scoring: tuple[float, int, float], out: _View, quantized: bool,
    ) -> None: ...  # fmt: skip
    def reserve(self, tokens: int, sampled: int) -> None: ...
    def rows(self, buffer: int) -> _Floats: ...
    def short_conv(
        self, x: _View, weight: Vector, bias: Vector | None, states: States, layer: int, out: _View
    ) -> None: ...
    def mamba2(
        self, x: _View, dt: _View, b: _View, c: _View, heads: int, groups: int, dim: int,
        a: Vector, d: Vector, states: States, layer: int, out: _View,
    ) -> None: ...  # fmt: skip
    def run(
        self, token_ids: _Ints, positions: _Ints, slots: _Ints, row_starts: _Ints, kv_lens: _Ints,
        page_table: _Ints, out_rows: _Ints, page_size: int, token_types: _Ints | None,
        state_slots: _Ints | None,
    ) -> None: ...  # fmt: skip
    def profile(
        self, token_ids: _Ints, positions: _Ints, slots: _Ints, row_starts: _Ints, kv_lens: _Ints,
        page_table: _Ints, out_rows: _Ints, page_size: int, token_types: _Ints | None,
        state_slots: _Ints | None,
    ) -> list[tuple[str, float]]: ...  # fmt: skip

def instruction_sets() -> list[str]: ...
def matrix_formats() -> list[str]: ...
def matrix_kinds() -> list[tuple[str, str, int, bool, int]]: ...
def packed_bytes(format: str, n: int, k: int) -> int: ...
def matrix(
    backend: Backend, parts: Sequence[tuple[str, NDArray[np.uint8], int]], k: int
) -> Matrix: ...
def vector(values: _Floats) -> Vector: ...
def rope_table() -> RopeTable: ...
def limits(backend: Backend, bytes: int) -> tuple[float, float, float]: ...
def kv_cache(
    layers: int, num_pages: int, page_size: int, heads: int, dim: int, kind: str
) -> KvCache: ...
def kv_token_bytes(heads: int, dim: int, kind: str) -> int: ...
def sample(
    backend: Backend, logits: _Floats, vocab: int, temperature: _Floats, top_k: _Ints,
    top_p: _Floats, min_p: _Floats, seeds: NDArray[np.uint64], positions: _Ints,
    num_logprobs: _Ints, edit_starts: _Ints, edit_ids: _Ints, edit_mul: _Floats,
    edit_add: _Floats, ids: _Ints, logprobs: _Floats, top_ids: _Ints, top_logprobs: _Floats,
) -> None: ...  # fmt: skip
def uniform(seed: int, position: int) -> float: ...
def states(layers: int, slots: int, size: int) -> States: ...
