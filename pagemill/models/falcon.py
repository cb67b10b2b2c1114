"""Falcon (TII, 2023): attention and feed-forward network side by side, from one norm (7B) or from
one each (40B). The first generation's ALiBi positions are not supported."""

from collections.abc import Mapping, Sequence
from typing import Any

from pagemill.checkpoint import Family, Keys, Origin, WeightSource
from pagemill.errors import Unsupported
from pagemill.models.blocks import Parallel
from pagemill.models.layers import FeedForward, LayerNorm
from pagemill.models.llama import Llama
from pagemill.ops.interface import Array, Ops, Step
from pagemill.types import ModelCard


class FalconLayer(Parallel):
    ffn_type = FeedForward
    norm_type = LayerNorm

    def load_norms(self, card: ModelCard, ops: Ops, source: WeightSource, at: str) -> None:
        """The feed-forward network's norm is called attn_norm; attention has one of its own in some
        of the files."""
        self.ffn_norm = self.norm_type(card, ops, source, f"{at}.attn_norm")
        self.attention_norm = None
        if source.has(f"{at}.attn_norm_2"):
            self.attention_norm = self.norm_type(card, ops, source, f"{at}.attn_norm_2")

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        y = self.ffn_norm(x)
        z = y if self.attention_norm is None else self.attention_norm(x)
        return x + self.attention(z, step, kv) + self.ffn(y)


class Falcon(Llama):
    layer_type = FalconLayer
    norm_type = LayerNorm


def grouped_rows(card: ModelCard, keys: Keys, origin: Origin) -> Mapping[str, Sequence[int]]:
    """Safetensors files keep a group's queries, key and value together; we want all queries, then
    all keys, then all values."""
    if origin != "safetensors":
        return {}
    dim, group = card.head_dim, card.heads // card.kv_heads
    starts = [g * (group + 2) * dim for g in range(card.kv_heads)]
    queries = [start + i for start in starts for i in range(group * dim)]
    keys_, values = (
        [start + (group + part) * dim + i for start in starts for i in range(dim)]
        for part in (0, 1)
    )
    return {"attn_qkv": queries + keys_ + values}


def _kv_heads(config: Mapping[str, Any]) -> int:
    if config.get("alibi") or not config.get("parallel_attn", True):
        raise Unsupported("config.json: Falcon with alibi or without parallel_attn cannot be run")
    if config.get("new_decoder_architecture"):
        return int(config.get("num_kv_heads") or config["num_attention_heads"])
    return 1 if config.get("multi_query", True) else int(config["num_attention_heads"])


_LAYER = "transformer.h.{}"
_NORM_NAMES = {"attn_norm": ("input_layernorm", "ln_mlp"), "attn_norm_2": ("ln_attn",)}
_NORMS = {
    f"blk.{{}}.{ours}.{part}": tuple(f"{_LAYER}.{name}.{part}" for name in theirs)
    for ours, theirs in _NORM_NAMES.items()
    for part in ("weight", "bias")
}

MODEL = Falcon
FAMILIES = (
    Family(
        "falcon",
        ("FalconForCausalLM",),
        settings={
            "attention.head_count_kv": _kv_heads,
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
            "feed_forward_length": lambda config: (
                config.get("ffn_hidden_size") or 4 * config["hidden_size"]
            ),
        },
        tensors={
            **_NORMS,
            "token_embd.weight": "transformer.word_embeddings.weight",
            "output_norm.weight": "transformer.ln_f.weight",
            "output_norm.bias": "transformer.ln_f.bias",
            "blk.{}.attn_qkv.weight": f"{_LAYER}.self_attention.query_key_value.weight",
            "blk.{}.attn_output.weight": f"{_LAYER}.self_attention.dense.weight",
            "blk.{}.ffn_up.weight": f"{_LAYER}.mlp.dense_h_to_4h.weight",
            "blk.{}.ffn_down.weight": f"{_LAYER}.mlp.dense_4h_to_h.weight",
        },
        row_orders=grouped_rows,
    ),
)
