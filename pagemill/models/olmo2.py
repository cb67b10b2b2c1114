"""OLMo 2 (Ai2, 2024): Llama with norms after attention and feed-forward network instead of before,
and norms of all queries and of all keys of a token together."""

from pagemill.checkpoint import Family, WeightSource
from pagemill.models.blocks import PostNorm
from pagemill.models.layers import Attention, WideRmsNorm
from pagemill.models.llama import Llama
from pagemill.ops.interface import Array, Ops
from pagemill.types import ModelCard


class Olmo2Attention(Attention):
    def __init__(self, card: ModelCard, ops: Ops, source: WeightSource, index: int) -> None:
        super().__init__(card, ops, source, index)
        q_size, k_size = card.heads * card.head_dim, card.kv_heads * card.head_dim
        self.q_norm = WideRmsNorm(card, ops, source, f"blk.{index}.attn_q_norm", q_size)
        self.k_norm = WideRmsNorm(card, ops, source, f"blk.{index}.attn_k_norm", k_size)

    def adjust(self, q: Array, k: Array) -> tuple[Array, Array]:
        tokens, dim = q.shape[0], self.head_dim
        q = self.q_norm(q.reshape(tokens, self.heads * dim))
        k = self.k_norm(k.reshape(tokens, self.kv_heads * dim))
        return q.reshape(tokens, self.heads, dim), k.reshape(tokens, self.kv_heads, dim)


class Olmo2Layer(PostNorm):
    attention_type = Olmo2Attention


class Olmo2(Llama):
    layer_type = Olmo2Layer


MODEL = Olmo2
FAMILIES = (
    Family(
        "olmo2",
        ("Olmo2ForCausalLM",),
        tensors={
            "blk.{}.post_attention_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
            "blk.{}.post_ffw_norm.weight": "model.layers.{}.post_feedforward_layernorm.weight",
        },
    ),
)
