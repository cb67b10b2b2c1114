"""The contract between models and backends. A model touches arrays through these methods only.

What this file must not know: how anything is computed, and which model is running. A backend
implements `Ops`; `pagemill/ops/reference.py` is the definition of every method in plain numpy, and
tests hold every other backend to it. Between ops a model may use four things on arrays, because
they mean the same everywhere: `.shape`, slicing, `.reshape` and `+`.

Names of sizes in shapes: T tokens of this step, S sampled rows, R sequences of this step, K inputs
and N outputs of a matrix, H query heads, G key/value heads, D head size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = Any  # the backend's own array type; models use .shape, slicing, .reshape and + only
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix as stored (y = x @ w.T): `formats` name how `parts` mean numbers.

    `parts` hold the file's bytes, one row after another; `weights.formats.<format>.unpack` gives
    their meaning as float32. A fused matrix (q, k, v or gate, up) has several parts stacked along
    N. They may differ in format only as whole rows, so `formats`, `parts` and `rows` are tuples of
    equal length.
    """

    shape: tuple[int, ...]  # (N, K)
    formats: tuple[str, ...]
    parts: tuple[NDArray[np.uint8], ...]
    rows: tuple[int, ...]  # rows of each part; sums to shape[0]


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass as flat arrays: all that a model sees of the engine.

    Row r of R sequences brings tokens row_starts[r] .. row_starts[r+1] of the T tokens. Its history
    is kv_lens[r] tokens long after this step and lies in pages page_table[r]; token t is stored in
    slot slots[t] = page * page_size + offset. Rows of `out_rows` (indices into T, S of them) are
    sampled.
    """

    token_ids: Int32  # (T,)
    positions: Int32  # (T,)
    slots: Int32  # (T,)
    row_starts: Int32  # (R + 1,)
    kv_lens: Int32  # (R,)
    page_table: Int32  # (R, most pages of a row), padded with 0
    out_rows: Int32  # (S,)
    page_size: int


@dataclass(frozen=True, slots=True)
class SampleRows:
    """What `sample` needs to know of each of S rows, as flat arrays. See `decoding.sampler`.

    Edits change single logits before anything else: edit e applies to logit edit_ids[e] of the row
    r with edit_starts[r] <= e < edit_starts[r+1]; l becomes (l / mul if l > 0 else l * mul) + add.
    num_logprobs is -1 for none, else how many most likely tokens to report beside the chosen one.
    """

    temperature: Float32  # (S,) 0 is greedy
    top_k: Int32  # (S,) 0 is off
    top_p: Float32  # (S,) 1 is off
    min_p: Float32  # (S,) 0 is off
    seeds: NDArray[np.uint64]  # (S,)
    positions: Int32  # (S,) of the token to be sampled
    num_logprobs: Int32  # (S,)
    edit_starts: Int32  # (S + 1,)
    edit_ids: Int32  # (E,)
    edit_mul: Float32  # (E,)
    edit_add: Float32  # (E,)


@dataclass(frozen=True, slots=True)
class Sampled:
    """Chosen ids, and log-probabilities of the logits before edits and knobs, for rows that
    asked."""

    ids: Int32  # (S,); -1 where there was no finite logit to choose
    logprobs: Float32  # (S,) of the chosen ids; 0 where num_logprobs is -1
    top_ids: Int32  # (S, most num_logprobs), most likely first, padded with -1
    top_logprobs: Float32  # (S, most num_logprobs)


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: element i pairs with i + len(inv_freq); angle = position * inv_freq[i].
    Elements from 2 * len(inv_freq) on pass through. Files that store q and k in another order are
    permuted when they are loaded."""

    inv_freq: tuple[float, ...]  # (rotary dims / 2,)


class WeightSource(Protocol):
    """A checkpoint as models see it, whatever its file format. Names are GGUF's, without ".weight":
    "token_embd", "blk.0.attn_q", "output_norm"."""

    def has(self, name: str) -> bool: ...

    def matrix(self, *names: str) -> Weight:
        """Tensors (N_i, K) stacked along N into one Weight; BadModelFile names what is missing or
        of the wrong shape. Reads nothing else, so one matrix is in memory at a time."""
        ...

    def vector(self, name: str) -> Float32: ...


class Ops(Protocol):
    """What a backend can do. Arrays are float32 between ops; weights keep their stored format."""

    name: str

    def upload(self, weight: Weight, table: bool = False) -> Array:
        """Take a weight over, repacked as the backend likes. `table`: rows will also be looked up
        by `embed`. Raises Unsupported, listing what exists, when the format has no kernel here."""
        ...

    def vector(self, values: Float32) -> Array:
        """Take over a norm weight or bias, kept as float32."""
        ...

    def new_kv(self, layers: int, num_pages: int, page_size: int, heads: int, dim: int) -> Array:
        """Pages for keys and values of all layers, zeroed. `kv[layer]` is passed to `attention`."""
        ...

    def compile(self, model: Callable[[Step, Array], Array]) -> Callable[[Step, Array], Array]:
        """Prepare a model for many steps (record, capture); same results as calling it."""
        ...

    def embed(self, ids: Array, table: Array) -> Array:
        """(T,) ids, (V, K) table -> (T, K)."""
        ...

    def linear(self, x: Array, weight: Array) -> Array:
        """(T, K) times (N, K) transposed -> (T, N). A row of the result depends on its own row of x
        only, bit for bit."""
        ...

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
        ...

    def silu_mul(self, gate_up: Array) -> Array:
        """(T, 2F) -> (T, F): silu(first half) * second half."""
        ...

    def rope(self, x: Array, positions: Array, rope: Rope) -> Array:
        """(T, heads, D) rotated by position."""
        ...

    def attention(self, q: Array, k: Array, v: Array, kv: Array, step: Step, scale: float) -> Array:
        """Store k, v (T, G, D) in their slots, then attend causally: q (T, H, D) -> (T, H, D).
        Query head h reads key/value head h // (H // G)."""
        ...

    def sample(self, logits: Array, rows: SampleRows) -> Sampled:
        """(S, V) logits -> ids. Order: edits, temperature, top_k, top_p, min_p, then one uniform
        number from Philox4x32-10(key = seed, counter = position) walks the cumulative distribution
        in id order. Greedy ties go to the lowest id."""
        ...
