"""Writes small safetensors files and folders, good and bad."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.weights.llama_file import FFN, HEADS, HIDDEN, KV_HEADS, VOCABULARY, llama_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
NAMES = {
    "token_embd": "model.embed_tokens",
    "blk.0.attn_norm": "model.layers.0.input_layernorm",
    "blk.0.attn_q": "model.layers.0.self_attn.q_proj",
    "blk.0.attn_k": "model.layers.0.self_attn.k_proj",
    "blk.0.attn_v": "model.layers.0.self_attn.v_proj",
    "blk.0.attn_output": "model.layers.0.self_attn.o_proj",
    "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm",
    "blk.0.ffn_gate": "model.layers.0.mlp.gate_proj",
    "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
    "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
    "output_norm": "model.norm",
}
DTYPES = {"<f4": "F32", "<f2": "F16", "<f8": "F64", "|u1": "U8", "|i1": "I8", "<i4": "I32"}
Entry = dict[str, Any]


def entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> Entry:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def raw_file(
    header: bytes | Mapping[str, Any], data: bytes = b"", length: int | None = None
) -> bytes:
    """A file with a header that may be anything, and a length that may be a lie."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def file_of(tensors: Mapping[str, NDArray[Any]], dtypes: Mapping[str, str] | None = None) -> bytes:
    """A good file. `dtypes` renames what numpy has no name for: {"x": "BF16"}."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        dtype = (dtypes or {}).get(name) or DTYPES[values.dtype.str]
        header[name] = entry(dtype, values.shape, len(data), len(data) + values.nbytes)
        data += values.tobytes()
    return raw_file(header, data)


def llama_tensors() -> dict[str, NDArray[np.float32]]:
    """The weights of `llama_file`, under their names in folders."""
    return {
        f"{NAMES[str(one.name).removesuffix('.weight')]}.weight": np.frombuffer(
            one.data, "<f4"
        ).reshape(one.dims[::-1])
        for one in llama_file().tensors
    }


def write_folder(
    folder: Path,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    config: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> Path:
    """A folder with one file, of the small Llama unless told otherwise."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    content = file_of(llama_tensors() if tensors is None else tensors, dtypes)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def write_shards(folder: Path, tensors: Mapping[str, NDArray[Any]], count: int = 2) -> Path:
    """A folder whose tensors are dealt out to several files, with an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names = [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
    where = {tensor: names[place % count] for place, tensor in enumerate(tensors)}
    for name in names:
        mine = {tensor: values for tensor, values in tensors.items() if where[tensor] == name}
        (folder / name).write_bytes(file_of(mine))
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
