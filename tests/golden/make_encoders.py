"""Makes encoders/: tiny random networks that give vectors, and what transformers says of them.

Needs packages that the project does not: run it in an environment of its own and commit the result.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install torch transformers gguf
    /tmp/golden/bin/python tests/golden/make_encoders.py

Random encoders are made by transformers and computed in float32; their hidden states, pooled here,
are the expectation of embeddings, and logits that of classifiers. Each folder gets config.json and
model.safetensors as transformers saves them, and model.gguf, written by the `gguf` package under
the names that llama.cpp's converter gives. Weights are numbers that BF16 holds.
"""

import copy
import json
import string
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers

HERE = Path(__file__).parent / "encoders"
VOCAB, HIDDEN, FFN, LAYERS, HEADS, CONTEXT = 40, 16, 24, 4, 2, 48
LENGTHS = (1, 7, 30)
# WordPiece: any one letter begins a word, few may follow; "\u2581" marks beginnings in GGUF files.
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = [*SPECIALS, *(f"\u2581{letter}" for letter in string.ascii_lowercase), *"aeiounrst"]

Tensors = dict[str, np.ndarray]
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
BERT = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "classifier.dense": "cls",
    "classifier.out_proj": "cls.output",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
DISTIL = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.q_lin": "attn_q",
    "attention.k_lin": "attn_k",
    "attention.v_lin": "attn_v",
    "attention.out_lin": "attn_output",
    "sa_layer_norm": "attn_output_norm",
    "ffn.lin1": "ffn_up",
    "ffn.lin2": "ffn_down",
    "output_layer_norm": "layer_output_norm",
    "pre_classifier": "cls",
    "classifier": "cls.output",
}
NOMIC = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "attn_output_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_mlp_layernorm": "layer_output_norm",
}
QWEN3 = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MODERN = {
    "embeddings.tok_embeddings": "token_embd",
    "embeddings.norm": "token_embd_norm",
    "final_norm": "output_norm",
    "attn_norm": "attn_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.Wo": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.Wi": "ffn_up",
    "mlp.Wo": "ffn_down",
    "head.dense": "cls",
    "head.norm": "cls.norm",
    "classifier": "cls.output",
}


@dataclass(frozen=True)
class Case:
    """One encoder: how transformers makes it, and what its GGUF file says."""

    arch: str
    model: Callable[[], Any]
    names: Mapping[str, str]
    pooling: int  # of the GGUF file: 1 the mean, 2 the first token, 3 the last, 4 a classifier
    keys: Mapping[str, Any] = field(default_factory=dict)
    types: int = 0  # texts of a pair that it tells apart; 0: it has no such tensor
    offset: int = 0  # of positions: RoBERTa's begin after the padding id
    labels: tuple[str, ...] = ()


def bert() -> Any:
    config = transformers.BertConfig(**SIZES, max_position_embeddings=CONTEXT, type_vocab_size=2)
    return transformers.BertModel(config, add_pooling_layer=False)


def bert_classifier() -> Any:
    config = transformers.BertConfig(
        **SIZES, max_position_embeddings=CONTEXT, type_vocab_size=2,
        id2label=dict(enumerate(("bad", "so so", "good"))),
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def roberta() -> Any:
    config = transformers.RobertaConfig(
        **SIZES, max_position_embeddings=CONTEXT + 2, type_vocab_size=1, pad_token_id=1
    )
    return transformers.RobertaModel(config, add_pooling_layer=False)


def reranker() -> Any:
    config = transformers.XLMRobertaConfig(
        **SIZES, max_position_embeddings=CONTEXT + 2, type_vocab_size=1, pad_token_id=1,
        num_labels=1,
    )  # fmt: skip
    return transformers.XLMRobertaForSequenceClassification(config)


def distil_config(**changes: Any) -> Any:
    return transformers.DistilBertConfig(
        vocab_size=VOCAB, dim=HIDDEN, hidden_dim=FFN, n_layers=LAYERS, n_heads=HEADS,
        max_position_embeddings=CONTEXT, **changes,
    )  # fmt: skip


def distil() -> Any:
    return transformers.DistilBertModel(distil_config())


def distil_classifier() -> Any:
    config = distil_config(id2label={0: "NEGATIVE", 1: "POSITIVE"})
    return transformers.DistilBertForSequenceClassification(config)


def nomic() -> Any:
    config = transformers.NomicBertConfig(**SIZES, max_position_embeddings=CONTEXT)
    return transformers.NomicBertModel(config, add_pooling_layer=False)


def qwen3() -> Any:
    config = transformers.Qwen3Config(
        **SIZES, max_position_embeddings=CONTEXT, num_key_value_heads=1, head_dim=12,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    return transformers.Qwen3Model(config)


def modern_config(**changes: Any) -> Any:
    return transformers.ModernBertConfig(
        **SIZES, max_position_embeddings=CONTEXT, local_attention=8, global_attn_every_n_layers=3,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
        **changes,
    )  # fmt: skip


def modern() -> Any:
    return transformers.ModernBertModel(modern_config())


def modern_reranker() -> Any:
    config = modern_config(num_labels=1, classifier_pooling="mean")
    return transformers.ModernBertForSequenceClassification(config)


MODERN_KEYS = {
    "rope.freq_base": 160000.0,
    "rope.freq_base_swa": 10000.0,
    "attention.sliding_window": 8,
    "attention.sliding_window_pattern": 3,
}
QWEN3_KEYS = {
    "attention.head_count_kv": 1,
    "attention.key_length": 12,
    "attention.value_length": 12,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 1e6,
}
CASES = {
    "bert": Case("bert", bert, BERT, 1, types=2),
    "bert_classifier": Case(
        "bert", bert_classifier, BERT, 4, types=2, labels=("bad", "so so", "good")
    ),
    "roberta": Case("bert", roberta, BERT, 2, types=1, offset=2),
    "reranker": Case("bert", reranker, BERT, 4, types=1, offset=2),
    "distil": Case("bert", distil, DISTIL, 1),
    "distil_classifier": Case(
        "bert",
        distil_classifier,
        DISTIL,
        4,
        {"classifier.activation": "relu"},
        labels=("NEGATIVE", "POSITIVE"),
    ),
    "nomic": Case("nomic-bert", nomic, NOMIC, 1, {"rope.freq_base": 1000.0}, types=2),
    "modern": Case("modern-bert", modern, MODERN, 2, MODERN_KEYS),
    "modern_reranker": Case("modern-bert", modern_reranker, MODERN, 4, MODERN_KEYS),
    "qwen3": Case("qwen3", qwen3, QWEN3, 3, QWEN3_KEYS),
}


def random_weights(model: Any) -> Any:
    """Wide enough that what is wrong shows."""
    with torch.no_grad():
        for name, values in model.named_parameters():
            noise = torch.randn_like(values)
            if values.dim() == 1:
                values.copy_(0.1 * noise if name.endswith("bias") else 1 + 0.2 * noise)
            else:
                values.copy_(noise * (1.0 if "embeddings" in name else 1.5 / HIDDEN**0.5))
            values.copy_(values.bfloat16())
    return model.eval()


def tensors(case: Case, model: Any) -> Tensors:
    """The model's tensors under GGUF's names."""
    found: Tensors = {}
    for name, values in model.state_dict().items():
        stem, _, ending = name.rpartition(".")
        for prefix in ("bert.", "roberta.", "distilbert.", "model.", "encoder.", "transformer."):
            stem = stem.removeprefix(prefix)
        at = ""
        if stem.startswith(("layer.", "layers.")):
            _, index, stem = stem.split(".", 2)
            at = f"blk.{index}."
        if stem not in case.names and "_proj" in stem:  # nomic: fused below
            found[f"{at}{stem}.{ending}"] = values.numpy()
            continue
        array = values.numpy()
        if case.names[stem] == "position_embd":
            array = array[case.offset :]
        found[f"{at}{case.names[stem]}.{ending}"] = np.ascontiguousarray(array)
    for index in range(LAYERS if case.arch == "nomic-bert" else 0):
        parts = [found.pop(f"blk.{index}.self_attn.{x}_proj.weight") for x in "qkv"]
        found[f"blk.{index}.attn_qkv.weight"] = np.concatenate(parts)
    return found


def save(folder: Path, model: Any) -> None:
    """config.json and model.safetensors; of a decoder also what makes it an embedding model."""
    with tempfile.TemporaryDirectory() as there:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(there)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((Path(there) / name).read_bytes())
    if isinstance(model, transformers.Qwen3Model):
        config = json.loads((folder / "config.json").read_text())
        config["architectures"] = ["Qwen3ForCausalLM"]  # as published ones are named
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        save_pooling(folder, "lasttoken")


def save_pooling(folder: Path, mode: str) -> None:
    """What makes it a folder of sentence-transformers."""
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))


def save_words(folder: Path) -> None:
    """The tokenizer of the GGUF files, as folders have it."""
    marked = "\u2581"
    words = {
        token if token in SPECIALS else token[1:] if token.startswith(marked) else f"##{token}": i
        for i, token in enumerate(TOKENS)
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIALS}
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": CONTEXT, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def write_gguf(name: str, case: Case, model: Any) -> None:
    writer = gguf.GGUFWriter(HERE / name / "model.gguf", case.arch)
    writer.add_name(f"tiny {name}")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    if case.arch != "qwen3":
        writer.add_layer_norm_eps(1e-5 if case.arch == "modern-bert" else 1e-12)
        writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType(case.pooling))
    if case.types:
        writer.add_token_type_count(case.types)
    for key, value in case.keys.items():
        if isinstance(value, float):
            writer.add_float32(f"{case.arch}.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"{case.arch}.{key}", value)
        else:
            writer.add_uint32(f"{case.arch}.{key}", value)
    if case.labels:
        writer.add_classifier_output_labels(list(case.labels))
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_token_list(TOKENS)
    writer.add_token_types([control if token in SPECIALS else normal for token in TOKENS])
    for number, token in enumerate(SPECIALS):
        kind = {"PAD": "padding", "UNK": "unknown", "SEP": "seperator"}.get(
            token[1:-1], token[1:-1]
        )
        writer.add_uint32(f"tokenizer.ggml.{kind.lower()}_token_id", number)
    writer.add_bos_token_id(SPECIALS.index("[CLS]"))
    for tensor, values in tensors(case, model).items():
        if values.ndim == 1:
            writer.add_tensor(tensor, values)
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(tensor, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def expected(case: Case, model: Any, ids: torch.Tensor, types: torch.Tensor) -> np.ndarray:
    more = {"token_type_ids": types} if case.types == 2 else {}
    with torch.no_grad():
        out = model(ids, attention_mask=torch.ones_like(ids), **more)
    if case.pooling == 4:
        return out.logits[0].numpy()
    hidden = out.last_hidden_state[0]
    pooled = {1: hidden.mean(0), 2: hidden[0], 3: hidden[-1]}[case.pooling]
    return torch.nn.functional.normalize(pooled, dim=0).numpy()


def main() -> None:
    random = np.random.default_rng(11)
    arrays: Tensors = {}
    for length in LENGTHS:
        # No id is that of padding, from which RoBERTa would count positions.
        arrays[f"ids_{length}"] = random.integers(3, VOCAB, length).astype(np.int32)
        arrays[f"types_{length}"] = (np.arange(length) >= length // 2 + 1).astype(np.int32)
    for seed, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model = random_weights(case.model())
        (HERE / name).mkdir(parents=True, exist_ok=True)
        save(HERE / name, model)
        write_gguf(name, case, model)
        if name == "bert":
            save_words(HERE / name)
            save_pooling(HERE / name, "mean_tokens")
        for length in LENGTHS:
            ids, types = (
                torch.tensor(arrays[f"{what}_{length}"][None].astype(np.int64))
                for what in ("ids", "types")
            )
            arrays[f"{name}_{length}"] = expected(case, model, ids, types)
            print(name, length, np.round(arrays[f"{name}_{length}"][:4], 3))
    np.savez_compressed(HERE / "expected.npz", **arrays)


if __name__ == "__main__":
    main()
