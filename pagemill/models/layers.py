"""Parts that networks share. Each takes its weights from a checkpoint when it is made.

Tensors have GGUF's names: "blk.3.attn_q" is the query matrix of layer 3. Matrices that read the
same input are fused at load, so a layer is few operations. A relative overrides what differs: a
class attribute, or one short method. Must not know: which network it is part of.
"""

from pagemill.checkpoint import Part, WeightSource
from pagemill.models.activations import read_activation
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Activation, Array, Ops, Rope, Scoring, Step
from pagemill.types import ModelCard


class Linear:
    """A product with a matrix of stacked tensors, and their biases where the checkpoint has them:
    of all or of none."""

    def __init__(self, ops: Ops, source: WeightSource, *parts: Part, k: int) -> None:
        self.ops = ops
        self.weight = ops.upload(source.matrix(*parts, k=k))
        self.bias = None
        if any(source.has(f"{name}.bias") for name, _ in parts):
            biases = [(f"{name}.bias", rows) for name, rows in parts]
            self.bias = ops.vector(source.vector(*biases))

    def __call__(self, x: Array) -> Array:
        y = self.ops.linear(x, self.weight)
        return y if self.bias is None else self.ops.bias(y, self.bias)


class RmsNorm:
    """RMS norm with a learned scale."""

    def __init__(
        self, card: ModelCard, ops: Ops, source: WeightSource, name: str, size: int = 0
    ) -> None:
        self.ops, self.eps = ops, card.norm_eps
        self.weight = ops.vector(source.vector((name, size or card.hidden_size)))

    def __call__(self, x: Array) -> Array:
        return self.ops.rms_norm(x, self.weight, self.eps)


class WideRmsNorm(RmsNorm):
    """An RMS norm of all heads of a token together."""

    def __call__(self, x: Array) -> Array:
        return self.ops.rms_norm_all(x, self.weight, self.eps)


class LayerNorm:
    """Layer norm with a learned scale and, where the checkpoint has one, a shift."""

    def __init__(
        self, card: ModelCard, ops: Ops, source: WeightSource, name: str, size: int = 0
    ) -> None:
        self.ops, self.eps = ops, card.norm_eps
        size = size or card.hidden_size
        self.weight = ops.vector(source.vector((name, size)))
        self.shift = None
        if source.has(f"{name}.bias"):
            self.shift = ops.vector(source.vector((f"{name}.bias", size)))

    def __call__(self, x: Array) -> Array:
        return self.ops.layer_norm(x, self.weight, self.shift, self.eps)


class Attention:
    """Grouped-query attention with rotary positions over paged keys and values.

    A relative overrides what differs: `score` (scale, window, cap), `rotation`, `adjust`, which
    sees queries and keys before they are rotated, or `attend`.
    """

    window_period = 0  # of so many layers all but the last have the window; 0: all layers have it

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        self.ops, self.index = ops, index
        self.heads, self.kv_heads, self.head_dim = card.heads, card.kv_heads, card.head_dim
        value_dim = source.keys.whole("attention.value_length", 1, 1 << 16, card.head_dim)
        if value_dim != card.head_dim:
            what = f"is {value_dim}; heads whose keys have another length, {card.head_dim}, cannot"
            raise source.keys.unsupported("attention.value_length", f"{what} be run")
        q_rows, kv_rows = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.qkv = self.projection(card, source, q_rows, kv_rows)
        name = f"blk.{index}.attn_output"
        self.output = Linear(ops, source, (name, card.hidden_size), k=q_rows)
        self.scoring = self.score(card, source)
        self.rope = self.rotation(card, source)
        self.sinks: Array | None = None

    def projection(
        self, card: ModelCard, source: WeightSource, q_rows: int, kv_rows: int
    ) -> Linear:
        """The product that gives queries, keys and values, in this order."""
        at = f"blk.{self.index}"
        parts = [(f"{at}.attn_q", q_rows), (f"{at}.attn_k", kv_rows), (f"{at}.attn_v", kv_rows)]
        if source.has(f"{at}.attn_qkv"):  # fused in the file already
            return Linear(
                self.ops, source, (f"{at}.attn_qkv", (q_rows, kv_rows, kv_rows)), k=card.hidden_size
            )
        return Linear(self.ops, source, *parts, k=card.hidden_size)

    def score(self, card: ModelCard, source: WeightSource) -> Scoring:
        return Scoring(card.head_dim**-0.5, self.window(card, source))

    def window(self, card: ModelCard, source: WeightSource) -> int:
        """Tokens that this layer sees; 0: all."""
        size = source.keys.whole("attention.sliding_window", 0, 1 << 31, 0)
        pattern = "attention.sliding_window_pattern"  # a flag for each layer
        if size and source.keys.has(pattern):
            return size if source.keys.flags(pattern, card.layers, True)[self.index] else 0
        period = self.window_period
        return size if not period or self.index % period < period - 1 else 0

    def rotation(self, card: ModelCard, source: WeightSource) -> Rope | None:
        """How queries and keys are rotated; None: they are not."""
        return rotary(card, source)

    def adjust(self, q: Array, k: Array) -> tuple[Array, Array]:
        """q (T, H, D) and k (T, G, D) before rotation."""
        return q, k

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        ops, num_tokens, dim = self.ops, x.shape[0], self.head_dim
        q_end = self.heads * dim
        k_end = q_end + self.kv_heads * dim
        qkv = self.qkv(x)  # (T, q_end + 2 * kv_heads * dim)
        q = qkv[:, :q_end].reshape(num_tokens, self.heads, dim)
        k = qkv[:, q_end:k_end].reshape(num_tokens, self.kv_heads, dim)
        v = qkv[:, k_end:].reshape(num_tokens, self.kv_heads, dim)
        q, k = self.adjust(q, k)
        y = self.attend(q, k, v, step, kv)  # (T, heads, dim)
        return ops.all_reduce(self.output(y.reshape(num_tokens, q_end)))

    def attend(self, q: Array, k: Array, v: Array, step: Step, kv: Array) -> Array:
        kv, sinks, rope = kv[self.index], self.sinks, self.rope
        return self.ops.attention(q, k, v, kv, step, self.scoring, sinks, rope)


class NormedAttention(Attention):
    """Attention with an RMS norm of every head's query and key."""

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        super().__init__(card, ops, source, index)
        self.q_norm = RmsNorm(card, ops, source, f"blk.{index}.attn_q_norm", card.head_dim)
        self.k_norm = RmsNorm(card, ops, source, f"blk.{index}.attn_k_norm", card.head_dim)

    def adjust(self, q: Array, k: Array) -> tuple[Array, Array]:
        return self.q_norm(q), self.k_norm(k)


class GatedFeedForward:
    """The gated feed-forward network: down(activation(gate(x)) * up(x))."""

    activation: Activation = "silu"

    def __init__(
        self,
        card: ModelCard,
        ops: Ops,
        source: WeightSource,
        index: int,
        size: int = 0,
        suffix: str = "",
    ) -> None:
        """`size` is the inner width when it is not the card's; `suffix` is of the tensors' names:
        "_shexp" for shared experts."""
        self.ops = ops
        self.activation = read_activation(source.keys, "hidden_activation", self.activation)
        at, size = f"blk.{index}", size or card.ffn_size
        gate, up = f"{at}.ffn_gate{suffix}", f"{at}.ffn_up{suffix}"
        parts: list[Part] = [(gate, size), (up, size)]
        if not source.has(gate):  # fused in the file already, gate first
            parts = [(up, (size, size))]
        self.gate_up = Linear(ops, source, *parts, k=card.hidden_size)
        self.down = Linear(ops, source, (f"{at}.ffn_down{suffix}", card.hidden_size), k=size)

    def part(self, x: Array) -> Array:
        """What this process has of the result."""
        inner = self.ops.act_mul(self.gate_up(x), self.activation)  # (T, size)
        return self.down(inner)

    def __call__(self, x: Array) -> Array:
        return self.ops.all_reduce(self.part(x))


class FeedForward:
    """The plain feed-forward network: down(activation(up(x)))."""

    activation: Activation = "gelu"

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        self.ops = ops
        self.activation = read_activation(source.keys, "hidden_activation", self.activation)
        up, down = f"blk.{index}.ffn_up", f"blk.{index}.ffn_down"
        self.up = Linear(ops, source, (up, card.ffn_size), k=card.hidden_size)
        self.down = Linear(ops, source, (down, card.hidden_size), k=card.ffn_size)

    def __call__(self, x: Array) -> Array:
        return self.ops.all_reduce(self.down(self.ops.act(self.up(x), self.activation)))
