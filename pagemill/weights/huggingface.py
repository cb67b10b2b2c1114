"""What Hugging Face folders call things: settings of config.json and tensors under GGUF's names.

What all families share stands here; a `Family` adds to it and overrides it. Must not know: files,
arrays, networks.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pagemill.checkpoint import Setting

Config = Mapping[str, Any]

# Tensors that are no weights: endings of names.
IGNORED: Final = ("rotary_emb.inv_freq",)

# GGUF's tensor -> its name in safetensors files; both have a ".weight" and may have a ".bias". The
# first "{}" is the layer, the second the expert.
TENSORS: Final = MappingProxyType(
    {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
        "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
        "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
        "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
        "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
        "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
        "blk.{}.attn_q_norm": "model.layers.{}.self_attn.q_norm",
        "blk.{}.attn_k_norm": "model.layers.{}.self_attn.k_norm",
        "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
        "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
        "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
        "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
        "blk.{}.ffn_gate_inp": "model.layers.{}.mlp.gate",
        "blk.{}.ffn_gate_exps": "model.layers.{}.mlp.experts.{}.gate_proj",
        "blk.{}.ffn_up_exps": "model.layers.{}.mlp.experts.{}.up_proj",
        "blk.{}.ffn_down_exps": "model.layers.{}.mlp.experts.{}.down_proj",
    }
)


def _first(*keys: str) -> Setting:
    """The first of several keys that is there."""

    def find(config: Config) -> Any:
        return next((config[key] for key in keys if config.get(key) is not None), None)

    return find


def rope_of(config: Config, layers: str = "full_attention") -> Config:
    """The rotary settings: "rope_parameters", or "rope_scaling" as it was called before. Files
    whose layers differ have them once for each kind of layer."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if isinstance(rope.get("full_attention"), dict):
        rope = rope.get(layers) or {}
    return rope


def _rope(key: str) -> Setting:
    """A rotary setting, as it stands."""

    def find(config: Config) -> Any:
        return rope_of(config).get(key)

    return find


def _rope_or_top(config: Config, key: str) -> Any:
    """A rotary setting that older files have beside the others."""
    found = rope_of(config).get(key)
    return config.get(key) if found is None else found


def _rope_type(config: Config) -> Any:
    rope = rope_of(config)
    kind = rope.get("rope_type", rope.get("type"))
    return {"default": None, "su": "longrope"}.get(kind, kind)


def _original_length(config: Config) -> Any:
    if _rope_type(config) is None:
        return None
    return config.get("original_max_position_embeddings") or rope_of(config).get(
        "original_max_position_embeddings"
    )


def _factor(config: Config) -> Any:
    """Of how many times the original context; some files leave it to be worked out."""
    if _rope_type(config) in (None, "longrope"):
        return None
    factor, original = rope_of(config).get("factor"), _original_length(config)
    if factor is None and original:
        return config["max_position_embeddings"] / original
    return factor


def _attention_factor(config: Config) -> Any:
    rope = rope_of(config)
    given = rope.get("attention_factor")
    mscale, of_all = rope.get("mscale"), rope.get("mscale_all_dim")
    if given is not None or _rope_type(config) != "yarn" or not (mscale and of_all):
        return given
    return _yarn_scale(_factor(config), mscale) / _yarn_scale(_factor(config), of_all)


def _yarn_scale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _log_multiplier(config: Config) -> Any:
    of_all = rope_of(config).get("mscale_all_dim")
    return 0.1 * of_all if of_all else None


def _rope_dims(config: Config) -> Any:
    part = _rope_or_top(config, "partial_rotary_factor")
    if part is None:
        return None
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return int(head_dim * part)


def _local_base(config: Config) -> Any:
    """The rotary base of layers with a window, where it is another."""
    given = config.get("rope_local_base_freq")
    local = rope_of(config, "sliding_attention")
    return given if local is rope_of(config) else local.get("rope_theta", given)


def _window(config: Config) -> Any:
    return config.get("sliding_window") if config.get("use_sliding_window", True) else None


def _window_pattern(config: Config) -> Any:
    kinds = config.get("layer_types")
    return None if kinds is None else [kind == "sliding_attention" for kind in kinds]


# GGUF's setting -> where config.json has it.
SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        "block_count": "num_hidden_layers",
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "vocab_size": "vocab_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "attention.key_length": "head_dim",
        "attention.value_length": "head_dim",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
        "attention.layer_norm_epsilon": _first("layer_norm_eps", "layer_norm_epsilon"),
        "attention.sliding_window": _window,
        "attention.sliding_window_pattern": _window_pattern,
        "expert_count": _first("num_experts", "num_local_experts"),
        "expert_used_count": "num_experts_per_tok",
        "hidden_activation": _first(
            "hidden_activation", "hidden_act", "activation_function", "activation"
        ),
        "rope.freq_base": lambda config: _rope_or_top(config, "rope_theta"),
        "rope.freq_base_swa": _local_base,
        "rope.dimension_count": _rope_dims,
        "rope.scaling.type": _rope_type,
        "rope.scaling.factor": _factor,
        "rope.scaling.original_context_length": _original_length,
        "rope.scaling.low_freq_factor": _rope("low_freq_factor"),
        "rope.scaling.high_freq_factor": _rope("high_freq_factor"),
        "rope.scaling.attn_factor": _attention_factor,
        "rope.scaling.short_factor": _rope("short_factor"),
        "rope.scaling.long_factor": _rope("long_factor"),
        "rope.scaling.yarn_beta_fast": _rope("beta_fast"),
        "rope.scaling.yarn_beta_slow": _rope("beta_slow"),
        "rope.scaling.yarn_truncate": _rope("truncate"),
        "rope.scaling.yarn_log_multiplier": _log_multiplier,
    }
)

# What config.json calls settings that a function looks for, in messages.
LABELS: Final = MappingProxyType(
    {
        "attention.layer_norm_epsilon": "layer_norm_eps",
        "attention.sliding_window": "sliding_window",
        "attention.sliding_window_pattern": "layer_types",
        "attention.temperature_scale": "llama_4_scaling_beta",
        "expert_count": "num_experts",
        "hidden_activation": "hidden_act",
        "rope.dimension_count": "partial_rotary_factor",
        "rope.freq_base": "rope_theta",
        "rope.freq_base_swa": "rope_theta",
        "rope.scaling.attn_factor": "attention_factor",
        "rope.scaling.factor": "factor",
        "rope.scaling.high_freq_factor": "high_freq_factor",
        "rope.scaling.long_factor": "long_factor",
        "rope.scaling.low_freq_factor": "low_freq_factor",
        "rope.scaling.original_context_length": "original_max_position_embeddings",
        "rope.scaling.short_factor": "short_factor",
        "rope.scaling.type": "rope_type",
        "rope.scaling.yarn_beta_fast": "beta_fast",
        "rope.scaling.yarn_beta_slow": "beta_slow",
        "rope.scaling.yarn_truncate": "truncate",
    }
)
