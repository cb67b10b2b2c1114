"""The tiny models that make.py makes: a class of transformers' settings and its arguments."""

from typing import Any

# Sizes are odd against each other, so that what is mixed up does not fit.
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SIZES, "rms_norm_eps": 1e-5, "rope_parameters": PLAIN_ROPE}),
    "llama_tied": (
        "LlamaConfig",
        {
            **SIZES,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
}
