"""A small good Llama in F32 as a `File`, for tests that break one thing of it."""

import numpy as np

from tests.weights.gguf_writer import ARRAY, F32, STRING, U32, File, Tensor, value

HIDDEN, FFN, HEADS, KV_HEADS, VOCABULARY = 8, 16, 2, 1, 6
HEAD_DIM = HIDDEN // HEADS


def llama_keys() -> dict[str, bytes]:
    return {
        "general.architecture": value(STRING, "llama"),
        "general.name": value(STRING, "small"),
        "llama.block_count": value(U32, 1),
        "llama.context_length": value(U32, 32),
        "llama.embedding_length": value(U32, HIDDEN),
        "llama.feed_forward_length": value(U32, FFN),
        "llama.attention.head_count": value(U32, HEADS),
        "llama.attention.head_count_kv": value(U32, KV_HEADS),
        "llama.rope.dimension_count": value(U32, HEAD_DIM),
        "llama.rope.freq_base": value(F32, 10000.0),
        "llama.attention.layer_norm_rms_epsilon": value(F32, 1e-5),
        "llama.vocab_size": value(U32, VOCABULARY),
        "tokenizer.ggml.tokens": value(ARRAY, (STRING, list("abcdef"))),
        "tokenizer.ggml.token_type": value(ARRAY, (U32, [1] * VOCABULARY)),
    }


def llama_file() -> File:
    random = np.random.default_rng(3)
    kv_rows = KV_HEADS * HEAD_DIM
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (kv_rows, HIDDEN),
        "blk.0.attn_v": (kv_rows, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_norm": (HIDDEN,),
        "blk.0.ffn_gate": (FFN, HIDDEN),
        "blk.0.ffn_up": (FFN, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, FFN),
        "output_norm": (HIDDEN,),
    }
    tensors = [
        Tensor(f"{name}.weight", shape[::-1], random.standard_normal(shape).astype("<f4").tobytes())
        for name, shape in shapes.items()
    ]
    return File(llama_keys(), tensors)
