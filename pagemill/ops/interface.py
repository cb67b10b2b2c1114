"""The contract between models and backends. A model touches arrays through these methods only.

What this file must not know: how anything is computed, and which model is running. A backend
implements `Ops`; `pagemill/ops/reference.py` is the definition of every method in plain numpy, and
tests hold every other backend to it. Between ops a model may use four things on arrays, because
they mean the same everywhere: `.shape`, slicing, `.reshape` and `+`.

Names of sizes in shapes: T tokens of this step, S sampled rows, R sequences of this step, K inputs
and N outputs of a matrix, H query heads, G key/value heads, D head size, V vocabulary, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = Any  # the backend's own array type; models use .shape, slicing, .reshape and + only
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Order = NDArray[np.int32]  # a permutation


@dataclass(frozen=True, slots=True)
class Grouping:
    """What a file's header says of scales: inputs that share one, its bytes, whether zero points
    stand beside them."""

    inputs: int
    scale_bytes: int
    zeros: bool = False


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
    # Of the network, counted from 0, where it belongs to one.
    layer: int | None = field(default=None, kw_only=True)
    # Of each part the inputs in the order in which its columns are stored; None: as they come.
    orders: tuple[Order | None, ...] = field(default=(), kw_only=True)
    # Of each part of an outline, whose bytes say nothing; None: as its format has them.
    groupings: tuple[Grouping | None, ...] = field(default=(), kw_only=True)

    @property
    def segments(self) -> Iterator[tuple[str, NDArray[np.uint8], int, Order | None]]:
        """Format, bytes, rows and order of each part."""
        orders = self.orders or (None,) * len(self.parts)
        return zip(self.formats, self.parts, self.rows, orders, strict=True)


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass as flat arrays: all that a model sees of the engine.

    Row r of R sequences brings tokens row_starts[r] .. row_starts[r+1] of the T tokens. Its history
    is kv_lens[r] tokens long after this step and lies in pages page_table[r]; token t is stored in
    slot slots[t] = page * page_size + offset. Rows of `out_rows` (indices into T, S of them) are
    sampled.
    """

    token_ids: Int32  # (T,); -1 - s is what row s of the last `sample_later` chose
    positions: Int32  # (T,)
    slots: Int32  # (T,)
    row_starts: Int32  # (R + 1,)
    kv_lens: Int32  # (R,)
    page_table: Int32  # (R, most pages of a row), padded with 0
    out_rows: Int32  # (S,)
    page_size: int
    token_types: Int32 | None = None  # (T,) which text of a pair, for networks that ask
    # (R, 2) for networks with recurrent state: the slot that a row's is read from (-1: it begins
    # with zeros) and the one that it is written to, which no other row reads or writes.
    state_slots: Int32 | None = None


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
    Elements from 2 * len(inv_freq) on pass through. `scale` multiplies cosines and sines (YaRN's
    attention factor), and so does 1 + growth * log(1 + floor(position / period)), which a period of
    0 leaves out. Files that store q and k in another order are permuted when they are loaded."""

    inv_freq: tuple[float, ...]  # (rotary dims / 2,)
    scale: float = 1.0
    growth: float = 0.0
    period: int = 0


# silu, gelu (with erf), gelu_tanh (its usual approximation), relu, tanh;
# clamped_silu: gate = min(gate, 7), up = clip(up, -7, 7), gate * sigmoid(1.702 * gate) * (up + 1),
# as in gpt-oss; alone it is an error.
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "tanh", "clamped_silu"]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How attention turns q k into scores: times `scale`; with a softcap c > 0, s becomes
    c * tanh(s / c); with a window w > 0, a token sees the last w tokens, itself among them."""

    scale: float
    window: int = 0
    softcap: float = 0.0


Pooling = Literal["mean", "cls", "last"]


@dataclass(frozen=True, slots=True)
class Routing:
    """How router logits (T, E) become `top_k` experts a token and their weights.

    Scores are softmax or sigmoid of the logits, in float32. The choice goes by score + selection
    bias (where there is one), of equals the lower expert first. With `groups` > 1 the experts are
    that many runs of equal length, and only the `top_groups` best groups may be chosen from; a
    group is as good as its best expert, or, with `group_pairs`, as its best two together. The
    weight of a chosen expert is its score (without bias), divided by the sum of the chosen with
    `normalize`, times `scale`.
    """

    top_k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    normalize: bool = True
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    group_pairs: bool = False
    activation: Activation = "silu"


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

    def new_kv(
        self, layers: int, num_pages: int, page_size: int, heads: int, dim: int,
        latent: bool = False,
    ) -> Array:  # fmt: skip
        """Pages for keys and values of all layers, zeroed. `kv[layer]` is passed to `attention`, or
        if `latent` to `latent_attention`, whose values are a part of its keys."""
        ...

    def new_state(self, layers: int, slots: int, size: int) -> Array:
        """What sequences keep from one step to the next beside pages: in each of `layers`, `slots`
        of `size` floats. `state[layer]` is passed to the operations that take a `state`; they read
        and write the slots that `step.state_slots` says."""
        ...

    def compile(self, model: Callable[[Step, Array], Array]) -> Callable[[Step, Array], Array]:
        """Prepare a model for many steps (record, capture); same results as calling it."""
        ...

    def embed(self, ids: Array, table: Array) -> Array:
        """(T,) ids (the step's token_ids, positions or token_types), (V, K) table -> (T, K)."""
        ...

    def linear(self, x: Array, weight: Array) -> Array:
        """(T, K) times (N, K) transposed -> (T, N). A row of the result depends on its own row of x
        only, bit for bit."""
        ...

    def linear_heads(self, x: Array, weight: Array) -> Array:
        """A matrix for each head: (T, H, K) times (H * N, K), of which head h has rows h * N to
        (h + 1) * N, transposed -> (T, H, N)."""
        ...

    def bias(self, x: Array, bias: Array) -> Array:
        """x + bias along the last axis; `bias` is a `vector`."""
        ...

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis. `weight` is as long as that axis,
        or as a row of x: then each head has its own part of it."""
        ...

    def layer_norm(self, x: Array, weight: Array, bias: Array | None, eps: float) -> Array:
        """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis."""
        ...

    def act(self, x: Array, kind: Activation) -> Array:
        """An activation of every element."""
        ...

    def act_mul(self, gate_up: Array, kind: Activation) -> Array:
        """(T, 2F) -> (T, F): activation of the first half times the second half."""
        ...

    def gated(self, x: Array, gate: Array, kind: Activation) -> Array:
        """`act_mul` of two arrays of one shape: activation of `gate` times x."""
        ...

    def sigmoid_mul(self, x: Array, gate: Array) -> Array:
        """x (T, N) times sigmoid(gate), gate (T, N) or (T, 1)."""
        ...

    def scale(self, x: Array, factor: float) -> Array:
        """x * factor, in float32."""
        ...

    def softcap(self, x: Array, cap: float) -> Array:
        """cap * tanh(x / cap)."""
        ...

    def rope(self, x: Array, positions: Array, rope: Rope) -> Array:
        """(T, heads, D) rotated by position."""
        ...

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
        """Rotate q and k, if `rope`; store k, v (T, G, D) in their slots; then attend causally:
        q (T, H, D) -> (T, H, D). Query head h reads key/value head h // (H // G). `sinks`, a
        `vector` (H,), is one more score for each head, without a value."""
        ...

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
        """Attention over compressed keys and values (DeepSeek-V2, 2024): store latent (T, L) and
        k_rope (T, R), which all heads share, then attend causally with scores
        (q (T, H, L) latent + q_rope (T, H, R) k_rope) * scale and values latent -> (T, H, L).
        `kv` was made by `new_kv`, latent, with one head of L + R."""
        ...

    def dense_attention(self, q: Array, k: Array, v: Array, step: Step, scoring: Scoring) -> Array:
        """Every token of a row attends to all tokens of that row, nothing is stored: q (T, H, D),
        k and v (T, G, D) -> (T, H, D). Rows must be whole. A window w > 0 keeps tokens less than w
        away to either side."""
        ...

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
        """A mixture of experts: x (T, K), router logits (T, E) -> (T, K). Expert e computes
        down[e](act_mul(gate_up[e](x))), with biases after each product where given; the results of
        the chosen are multiplied by their weights and added in the order of choice."""
        ...

    def short_conv(
        self, x: Array, weight: Array, bias: Array | None, state: Array, step: Step
    ) -> Array:
        """A convolution along each row's sequence, of each channel alone: x (T, C), `weight` a
        `vector` (C * W) of W taps a channel, of which the last weighs the token itself and those
        before it the tokens before; bias (C,). `state` has C * (W - 1) floats."""
        ...

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
        """The recurrence of Mamba-2 (Dao and Gu, 2024), token after token of each row. Head h of
        x (T, H, D) reads dt (T, H), a and d, `vector`s (H,), and group h // (H // G) of b and c
        (T, G, N); it has a matrix s (D, N) of state, and gives y (D,):

            dt = log(1 + exp(dt))
            s = exp(dt * a) * s + outer(dt * x, b)
            y = s c + d * x

        `state` has H * D * N floats."""
        ...

    def pool(self, x: Array, step: Step, kind: Pooling) -> Array:
        """(T, K) -> (S, K): of each row that a token of `out_rows` ends, the mean of all its
        tokens, its first, or its last. Rows must be whole."""
        ...

    def normalize(self, x: Array) -> Array:
        """x / sqrt(sum(x^2)) over the last axis; zeros stay zeros."""
        ...

    def residual(self, x: Array) -> Array:
        """x, to which layers will add: a backend may put `+` off until the sum is read."""
        ...

    def all_reduce(self, x: Array) -> Array:
        """The sum of x over all processes that share the network, each with some of its heads and
        inner widths (see `pagemill.parallel`); x itself where there is one. x may be overwritten.
        """
        ...

    def rms_norm_all(self, x: Array, weight: Array, eps: float) -> Array:
        """`rms_norm` over many heads, of which each of these processes may have some."""
        ...

    def fetch(self, x: Array) -> Float32:
        """What a model gives that is not sampled from, as an array of the host's."""
        ...

    def sample(self, logits: Array, rows: SampleRows) -> Sampled:
        """(S, V) logits -> ids. Order: edits, temperature, top_k, top_p, min_p, then one uniform
        number from Philox4x32-10(key = seed, counter = position) walks the cumulative distribution
        in id order. Greedy ties go to the lowest id."""
        ...


@runtime_checkable
class Captures(Protocol):
    """A compiled model that can record steps whose rows bring one token each, to repeat them."""

    def capture(self, kv: Array, max_rows: int, max_len: int, page_size: int) -> None:
        """Record steps of up to `max_rows` rows and sequences of up to `max_len` tokens over this
        cache."""
        ...


@runtime_checkable
class SamplesLater(Protocol):
    """A backend that computes while the engine plans the next step: a compiled model and
    `sample_later` return before the work is done, which is done in the order of the calls."""

    def sample_later(self, logits: Array, rows: SampleRows) -> Callable[[], Sampled]:
        """As `Ops.sample`, of no rows too; calling the result waits for the step and its choices.
        The next step's `token_ids` may name them before that. Where nothing could be chosen (-1),
        the next step computes that token as any id, and what comes of it is dropped."""
        ...
