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

SMALL = {**SIZES, "rope_parameters": PLAIN_ROPE}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
GRANITE = {
    "embedding_multiplier": 0.2,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.7,
    "logits_scaling": 0.5,
}
FALCON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "alibi": False,
    "bias": False,
    "parallel_attn": True,
}
GRANITE_HYBRID = {
    **SIZES,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.0,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "shared_intermediate_size": 20,
    "mamba_d_state": 10,
    "pad_token_id": 0,
}
DEEPSEEK = {
    **SIZES,
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 64}


def stretched(**rope: Any) -> dict[str, Any]:
    return {**SIZES, "rope_parameters": {"rope_theta": 10000.0, **rope}}


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
    "llama_linear": ("LlamaConfig", stretched(rope_type="linear", factor=4.0)),
    "llama_yarn": ("LlamaConfig", {**SIZES, "rope_parameters": YARN}),
    "mistral": ("MistralConfig", {**SMALL, "head_dim": 8, "sliding_window": 8}),
    "ministral": (
        "MinistralConfig",
        {
            **SMALL,
            "head_dim": 8,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "mistral3": (
        "Ministral3Config",
        {
            **SIZES,
            "head_dim": 8,
            "pad_token_id": 0,
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": 16,
                "mscale": 1.0,
                "mscale_all_dim": 0.5,
                "llama_4_scaling_beta": 0.4,
            },
        },
    ),
    "mixtral": (
        "MixtralConfig",
        {
            **SMALL,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": None,
            "intermediate_size": 24,
        },
    ),
    "qwen2": ("Qwen2Config", SMALL),
    "qwen3": ("Qwen3Config", {**SMALL, "head_dim": 12}),
    "qwen2moe": (
        "Qwen2MoeConfig",
        {**SMALL, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 40},
    ),
    "qwen3moe": (
        "Qwen3MoeConfig",
        {**SMALL, **EXPERTS, "num_experts": 4, "head_dim": 8, "norm_topk_prob": True},
    ),
    "gemma": ("GemmaConfig", {**SMALL, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2Config",
        {
            **SMALL,
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 12,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **SIZES,
            "num_hidden_layers": 7,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "intermediate_size": 24,
            "sliding_window": 8,
            "query_pre_attn_scalar": 12,
            "tie_word_embeddings": True,
        },
    ),
    "phi3": (
        "Phi3Config",
        {
            **SMALL,
            "sliding_window": None,
            "original_max_position_embeddings": 256,
            "pad_token_id": 0,
        },
    ),
    "gpt_oss": (
        "GptOssConfig",
        {
            **SIZES,
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 24,
            "sliding_window": 8,
        },
    ),
    "olmo2": ("Olmo2Config", {**SMALL, "pad_token_id": 0}),
    "granite": ("GraniteConfig", {**SMALL, **GRANITE}),
    "granitemoe": (
        "GraniteMoeConfig",
        {
            **SMALL,
            **GRANITE,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 24,
        },
    ),
    "granitemoe_shared": (
        "GraniteMoeSharedConfig",
        {
            **SMALL,
            **GRANITE,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 24,
            "shared_intermediate_size": 40,
        },
    ),
    "smollm3": (
        "SmolLM3Config",
        {
            **SMALL,
            "num_hidden_layers": 4,
            "intermediate_size": 24,
            "use_sliding_window": False,
            "pad_token_id": 0,
        },
    ),
    "command_r": ("CohereConfig", {**SMALL, "logit_scale": 2.0, "tie_word_embeddings": True}),
    "cohere2": (
        "Cohere2Config",
        {
            **SMALL,
            "num_hidden_layers": 4,
            "intermediate_size": 24,
            "logit_scale": 2.0,
            "sliding_window": 8,
            "tie_word_embeddings": True,
        },
    ),
    "starcoder2": ("Starcoder2Config", {**SMALL, "sliding_window": 8}),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": 96,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "n_inner": 48,
        },
    ),
    "falcon": ("FalconConfig", {**FALCON, "multi_query": True, "new_decoder_architecture": False}),
    "falcon_grouped": (
        "FalconConfig",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "glm4": (
        "Glm4Config",
        {
            **SMALL,
            "head_dim": 8,
            "attention_bias": True,
            "pad_token_id": 0,
            "rope_parameters": {**PLAIN_ROPE, "partial_rotary_factor": 0.5},
        },
    ),
    "ernie4_5": ("Ernie4_5Config", {**SMALL, "head_dim": 8, "pad_token_id": 0, "use_bias": True}),
    "deepseek2": (
        "DeepseekV2Config",
        {
            **DEEPSEEK,
            "q_lora_rank": 24,
            "n_shared_experts": 1,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.0,
        },
    ),
    "deepseek2_lite": (
        "DeepseekV2Config",
        {
            **DEEPSEEK,
            "q_lora_rank": None,
            "n_shared_experts": 2,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "deepseek3": (
        "DeepseekV3Config",
        {
            **DEEPSEEK,
            "q_lora_rank": 24,
            "n_shared_experts": 1,
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 2.5,
            "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    "granitehybrid": (
        "GraniteMoeHybridConfig",
        {
            **GRANITE_HYBRID,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "intermediate_size": 16,
            "tie_word_embeddings": True,
            "mamba_n_heads": 4,
            "mamba_n_groups": 2,
        },
    ),
    "granitehybrid_dense": (
        "GraniteMoeHybridConfig",
        {
            **GRANITE_HYBRID,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "position_embedding_type": "rope",
            "rope_parameters": PLAIN_ROPE,
            "mamba_n_heads": 8,
            "mamba_conv_bias": False,
            "mamba_proj_bias": True,
        },
    ),
}
