"""Makes tiny_llama.gguf and tiny_llama.npz, the golden files of the parity tests.

Needs packages that the project does not: run it in an environment of its own and commit the result.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install torch transformers gguf
    /tmp/golden/bin/python tests/golden/make_tiny_llama.py

A random Llama is made by transformers in float32; its logits on a few prompts are the expectation.
The GGUF is written by the `gguf` package, with q and k rows in the order that llama.cpp's converter
gives them, so that reader and forward pass are held to two independent programs. Weights are drawn
wide enough that logits have margins and greedy text varies.
"""

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, CONTEXT = 64, 128, 2, 4, 2, 512
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "Ġ t", "i n", "e r", "o n", "he ll", "hell o", "Ġt he", "a n", "Ġ Ġ"]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def byte_letters() -> list[str]:
    """The letter that byte-level BPE (GPT-2) writes for each of 256 bytes."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def tokens() -> list[str]:
    return [*SPECIALS, *byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]


def make_model(vocab_size: int) -> LlamaForCausalLM:
    torch.manual_seed(20)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=HIDDEN,
            intermediate_size=FFN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() == 1:
                values.copy_(1 + 0.2 * torch.randn_like(values))
            else:
                wide = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                values.copy_(torch.randn_like(values) * wide / values.shape[1] ** 0.5)
        model.model.embed_tokens.weight.mul_(HIDDEN**0.5)
        model.lm_head.weight.mul_(2)
        # A sampled end-of-text would cut the tests' answers short.
        model.lm_head.weight[: len(SPECIALS)].mul_(0.1)
    return model.eval()


def neighbours(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp's converter orders them."""
    rows, width = values.shape
    return values.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def write_gguf(model: LlamaForCausalLM, vocabulary: list[str]) -> None:
    writer = gguf.GGUFWriter(HERE / "tiny_llama.gguf", "llama")
    writer.add_name("tiny llama")
    writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    special, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([special if token in SPECIALS else normal for token in vocabulary])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            index, stem = stem.removeprefix("model.layers.").split(".", 1)
            target = f"blk.{index}.{NAMES[stem]}.weight"
        else:
            target = f"{NAMES[stem]}.weight"
        if "q_proj" in name:
            values = neighbours(values, HEADS)
        elif "k_proj" in name:
            values = neighbours(values, KV_HEADS)
        writer.add_tensor(target, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_expectations(model: LlamaForCausalLM, vocab_size: int) -> None:
    random = np.random.default_rng(7)
    arrays = {}
    for length in (1, 5, 40):
        prompt = random.integers(len(SPECIALS), vocab_size, length)
        with torch.no_grad():
            logits = model(torch.tensor(prompt[None])).logits[0].numpy()
            answer = model.generate(
                torch.tensor(prompt[None]), max_new_tokens=24, do_sample=False, eos_token_id=None
            )[0, length:].numpy()
        arrays[f"prompt_{length}"] = prompt.astype(np.int32)
        arrays[f"logits_{length}"] = logits.astype(np.float32)
        arrays[f"greedy_{length}"] = answer.astype(np.int32)
        top = np.sort(logits, axis=1)
        print(length, "margins", np.round(top[-3:, -1] - top[-3:, -2], 3), "greedy", answer)
    np.savez_compressed(HERE / "tiny_llama.npz", **arrays)


def main() -> None:
    vocabulary = tokens()
    model = make_model(len(vocabulary))
    write_gguf(model, vocabulary)
    write_expectations(model, len(vocabulary))


if __name__ == "__main__":
    main()
