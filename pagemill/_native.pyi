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

class Program:
    arena_bytes: int
    def __init__(self, backend: Backend) -> None: ...
    def buffer(self, width: int, sampled: bool) -> int: ...
    def embed(self, table: Matrix, out: int) -> None: ...
    def norm(
        self, x: _View, added: _View, sum: _View, weight: Vector, eps: float, heads: int,
        out: _View, quantized: bool,
    ) -> None: ...  # fmt: skip
    def quantize(self, x: _View, width: int) -> None: ...
    def linear(self, x: _View, weight: Matrix, out: int) -> None: ...
    def silu_mul(self, x: _View, width: int, out: _View, quantized: bool) -> None: ...
    def linear_silu_mul(
        self, x: _View, weight: Matrix, between: int, out: _View, quantized: bool
    ) -> None: ...
    def rope(self, x: _View, heads: int, dim: int, table: RopeTable) -> None: ...
    def store_kv(self, k: _View, v: _View, kv: KvCache, layer: int) -> None: ...
    def attend(
        self, q: _View, heads: int, kv: KvCache, layer: int, scale: float, out: _View,
        quantized: bool,
    ) -> None: ...  # fmt: skip
    def add(self, a: _View, b: _View, width: int, out: _View) -> None: ...
    def gather(self, source: int, out: int) -> None: ...
    def reserve(self, tokens: int, sampled: int) -> None: ...
    def rows(self, buffer: int) -> _Floats: ...
    def run(
        self, token_ids: _Ints, positions: _Ints, slots: _Ints, row_starts: _Ints, kv_lens: _Ints,
        page_table: _Ints, out_rows: _Ints, page_size: int, vocab: int, num_slots: int,
        max_positions: int,
    ) -> None: ...  # fmt: skip
    def profile(
        self, token_ids: _Ints, positions: _Ints, slots: _Ints, row_starts: _Ints, kv_lens: _Ints,
        page_table: _Ints, out_rows: _Ints, page_size: int, vocab: int, num_slots: int,
        max_positions: int,
    ) -> list[tuple[str, float]]: ...  # fmt: skip

def instruction_sets() -> list[str]: ...
def matrix_formats() -> list[str]: ...
def matrix(
    backend: Backend, parts: Sequence[tuple[str, NDArray[np.uint8], int]], k: int
) -> Matrix: ...
def vector(values: _Floats) -> Vector: ...
def rope_table() -> RopeTable: ...
def kv_cache(
    layers: int, num_pages: int, page_size: int, heads: int, dim: int, half: bool
) -> KvCache: ...
def sample(
    backend: Backend, logits: _Floats, vocab: int, temperature: _Floats, top_k: _Ints,
    top_p: _Floats, min_p: _Floats, seeds: NDArray[np.uint64], positions: _Ints,
    num_logprobs: _Ints, edit_starts: _Ints, edit_ids: _Ints, edit_mul: _Floats,
    edit_add: _Floats, ids: _Ints, logprobs: _Floats, top_ids: _Ints, top_logprobs: _Floats,
) -> None: ...  # fmt: skip
def uniform(seed: int, position: int) -> float: ...
