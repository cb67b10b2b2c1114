"""Nomic BERT (Nussbaum et al., 2024): BERT with rotary positions and a gated feed-forward network,
without biases."""

from collections.abc import Mapping
from typing import Any

from pagemill.checkpoint import Family, Setting, WeightSource
from pagemill.errors import Unsupported
from pagemill.models.bert import Bert, BertLayer, both, keeps_nothing
from pagemill.models.layers import GatedFeedForward
from pagemill.models.pooling import DenseAttention
from pagemill.ops.interface import Array, Step


class NomicBertLayer(BertLayer):
    attention_type = DenseAttention
    ffn_type = GatedFeedForward


class NomicBert(Bert):
    layer_type = NomicBertLayer

    def load_positions(self, source: WeightSource) -> None:
        """There are none: queries and keys are rotated."""

    def place(self, x: Array, step: Step) -> Array:
        return x


def _either(new: str, old: str) -> Setting:
    """A setting by transformers' name, or by that of the files from before it knew them."""
    return lambda config: config.get(new, config.get(old))


def _positions(config: Mapping[str, Any]) -> Any:
    """Older files allow more than the network was trained for."""
    if "n_positions" not in config:
        return config.get("max_position_embeddings")
    return min(config["n_positions"], config.get("max_trained_positions", 2048))


def _layers(config: Mapping[str, Any]) -> Any:
    if config.get("activation_function", config.get("hidden_act")) not in ("swiglu", "silu"):
        raise Unsupported("config.json: a Nomic BERT runs with a gate of silu only")
    for key in ("moe_every_n_layers", "prenorm", "rotary_emb_interleaved", "qkv_proj_bias"):
        if config.get(key):
            raise Unsupported(f"config.json: {key!r}: a Nomic BERT with that cannot be run")
    return config.get("num_hidden_layers", config.get("n_layer"))


_AT = "encoder.layers.{}"

MODEL = NomicBert
FAMILIES = (
    Family(
        "nomic-bert",
        ("NomicBertModel",),
        settings={
            "block_count": _layers,
            "context_length": _positions,
            "embedding_length": _either("hidden_size", "n_embd"),
            "feed_forward_length": _either("intermediate_size", "n_inner"),
            "attention.head_count": _either("num_attention_heads", "n_head"),
            "attention.layer_norm_epsilon": _either("layer_norm_eps", "layer_norm_epsilon"),
            "rope.freq_base": lambda config: config.get(
                "rotary_emb_base", (config.get("rope_parameters") or {}).get("rope_theta", 1000.0)
            ),
            "tokenizer.ggml.token_type_count": "type_vocab_size",
        },
        tensors=both(
            {
                "token_embd": "embeddings.word_embeddings",
                "token_types": "embeddings.token_type_embeddings",
                "token_embd_norm": "emb_ln",
                "blk.{}.attn_qkv": f"{_AT}.attn.Wqkv",
                "blk.{}.attn_output": f"{_AT}.attn.out_proj",
                "blk.{}.attn_output_norm": f"{_AT}.norm1",
                "blk.{}.ffn_up": f"{_AT}.mlp.fc11",
                "blk.{}.ffn_gate": f"{_AT}.mlp.fc12",
                "blk.{}.ffn_down": f"{_AT}.mlp.fc2",
                "blk.{}.layer_output_norm": f"{_AT}.norm2",
            }
        ),
        kv_elements=keeps_nothing,
        pooling="mean",
    ),
)
