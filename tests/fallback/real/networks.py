"""Tiny random networks that transformers makes, in folders, and what it computes with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pagemill.ops.interface import Float32

SIZES: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 96,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
)
GROUPED = MappingProxyType({"num_key_value_heads": 2})
# Of which kind of attention each is an example; the first six are not among Pagemill's own.
NETWORKS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "stablelm": GROUPED,  # grouped heads, part of a head rotated
        "gpt_neox": {},  # queries, keys and values in one matrix
        "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},  # learned positions
        "nemotron": GROUPED,
        "persimmon": {},  # norms of queries and keys
        "olmo3": {**GROUPED, "sliding_window": 6},  # windows in some layers
        "llama4_text": {  # chunks in some layers, experts
            **GROUPED,
            "head_dim": 8,
            "attention_chunk_size": 5,
            "num_local_experts": 2,
            "intermediate_size_mlp": 48,
            "layer_types": ["chunked_attention", "full_attention"],
        },
        "gemma2": {  # scores are capped, scaled, seen through a window
            **GROUPED,
            "head_dim": 8,
            "sliding_window": 6,
            "attn_logit_softcapping": 2.0,
            "query_pre_attn_scalar": 3,
        },
        "gpt_oss": {  # sinks
            **GROUPED,
            "head_dim": 8,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "sliding_window": 6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
)


def make(folder: Path, kind: str, **changes: Any) -> Path:
    """A folder with a network of a `model_type` and random weights, always the same."""
    torch.manual_seed(1)
    config = CONFIG_MAPPING[kind](**{**SIZES, **NETWORKS.get(kind, {}), **changes})
    network = transformers.AutoModelForCausalLM.from_config(config)
    for name, weight in network.named_parameters():
        # Norms stay as they are: signals keep their size, and differences show.
        if weight.dim() > 1 or "sinks" in name:
            torch.nn.init.normal_(weight, std=0.3)
    network.save_pretrained(folder)
    return folder


def logits_of(folder: Path, ids: Sequence[int]) -> Float32:
    """(T, V) as the library computes them when it is asked directly."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        result: Float32 = network(torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return result


def greedy(folder: Path, ids: Sequence[int], count: int) -> list[int]:
    """The `count` most likely tokens after `ids`, each computed from everything before it."""
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    text = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            logits = network(torch.tensor([text]), use_cache=False).logits
            text.append(int(logits[0, -1].argmax()))
    return text[len(ids) :]
