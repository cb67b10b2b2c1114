"""Parts that networks share. Each takes its weights from a checkpoint when it is made.

Tensors have GGUF's names: "blk.3.attn_q" is the query matrix of layer 3. Matrices that read the
same input are fused at load, so a layer is few operations. Must not know: which network it is part
of.
"""

from pagemill.ops.interface import Array, Ops, Rope, Step, WeightSource
from pagemill.types import ModelCard


class Norm:
    """RMS norm with a learned scale."""

    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, name: str) -> None:
        self.ops, self.eps = ops, card.rms_eps
        self.weight = ops.vector(source.vector(name))

    def __call__(self, x: Array) -> Array:
        return self.ops.rms_norm(x, self.weight, self.eps)


class Attention:
    """Grouped-query attention with rotary positions over paged keys and values."""

    def __init__(
        self, card: ModelCard, ops: Ops, source: WeightSource, index: int, rope: Rope
    ) -> None:
        self.ops, self.rope, self.index = ops, rope, index
        self.heads, self.kv_heads, self.head_dim = card.heads, card.kv_heads, card.head_dim
        self.scale = card.head_dim**-0.5
        at = f"blk.{index}"
        self.qkv = ops.upload(source.matrix(f"{at}.attn_q", f"{at}.attn_k", f"{at}.attn_v"))
        self.output = ops.upload(source.matrix(f"{at}.attn_output"))

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        ops, num_tokens, dim = self.ops, x.shape[0], self.head_dim
        q_end = self.heads * dim
        k_end = q_end + self.kv_heads * dim
        qkv = ops.linear(x, self.qkv)  # (T, q_end + 2 * kv_heads * dim)
        q = qkv[:, :q_end].reshape(num_tokens, self.heads, dim)
        k = qkv[:, q_end:k_end].reshape(num_tokens, self.kv_heads, dim)
        v = qkv[:, k_end:].reshape(num_tokens, self.kv_heads, dim)
        q = ops.rope(q, step.positions, self.rope)
        k = ops.rope(k, step.positions, self.rope)
        y = ops.attention(q, k, v, kv[self.index], step, self.scale)  # (T, heads, dim)
        return ops.linear(y.reshape(num_tokens, q_end), self.output)


class FeedForward:
    """The gated feed-forward network: down(silu(gate(x)) * up(x))."""

    def __init__(self, ops: Ops, source: WeightSource, index: int) -> None:
        self.ops = ops
        at = f"blk.{index}"
        self.gate_up = ops.upload(source.matrix(f"{at}.ffn_gate", f"{at}.ffn_up"))
        self.down = ops.upload(source.matrix(f"{at}.ffn_down"))

    def __call__(self, x: Array) -> Array:
        inner = self.ops.silu_mul(self.ops.linear(x, self.gate_up))  # (T, ffn_size)
        return self.ops.linear(inner, self.down)


def rotary(card: ModelCard, source: WeightSource) -> Rope:
    """Rotary frequencies, stretched by the checkpoint's factors where it has some (Llama 3.1)."""
    half = card.rope_dim // 2
    factors = [float(f) for f in source.vector("rope_freqs")] if source.has("rope_freqs") else []
    return Rope(
        tuple(
            card.rope_theta ** (-i / half) / (factors[i] if factors else 1.0) for i in range(half)
        )
    )
