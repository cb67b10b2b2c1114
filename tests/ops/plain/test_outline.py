"""The outline of a network on tensors: what it says is what layouts and caches then take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.footprint import footprint_of
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Float32, Grouping, Weight
from pagemill.ops.plain.layouts.table import matrix_bytes
from pagemill.ops.plain.matrices import upload
from pagemill.ops.plain.ops import PlainOps
from pagemill.types import Footprint
from pagemill.weights import formats
from pagemill.weights.formats import fp8
from pagemill.weights.load import Checkpoint, open_model
from pagemill.weights.mixtures import mixture
from pagemill.weights.precision import Precision
from pagemill.weights.quantize import quantize_file
from tests.models import random_folders as random
from tests.models.test_golden import FOLDERS
from tests.weights.gguf_writer import ARRAY, STRING, U32, File, Tensor, value
from tests.weights.llama_file import llama_keys

AGREES = 0.02


def taken(checkpoint: Checkpoint, ops: PlainOps) -> tuple[int, int, int]:
    """Bytes of a network that is there: weights, a token of its cache, states of a sequence."""
    sizes = {"weights": 0, "states": 0}
    upload, vector, new_state = ops.upload, ops.vector, ops.new_state

    def counted(weight: Weight, table: bool = False) -> Any:
        matrix = upload(weight, table)
        sizes["weights"] += matrix.nbytes
        return matrix

    def counted_vector(values: Float32) -> Any:
        tensor = vector(values)
        sizes["weights"] += tensor.nbytes
        return tensor

    def counted_state(layers: int, slots: int, size: int) -> Any:
        states = new_state(layers, slots, size)
        sizes["states"] += sum(state[:slots].nbytes for state in states.layers) // slots
        return states

    ops.upload, ops.vector, ops.new_state = counted, counted_vector, counted_state  # type: ignore[method-assign]
    network = models.build(checkpoint.card, ops, checkpoint.source)
    pages = network.new_kv(3, 16, 2)
    layers = [layer for layer in getattr(pages, "layers", pages) or () if hasattr(layer, "keys")]
    of_layer = (
        (
            part[:3].nbytes
            for part in (at.keys, at.values, at.key_scales, at.value_scales)
            if part is not None
        )
        for at in layers
    )
    return sizes["weights"], sum(map(sum, of_layer)) // 48, sizes["states"]


def outlined(checkpoint: Checkpoint, backend: str, **asked: str) -> Footprint:
    footprint = footprint_of(checkpoint, backend, **asked)  # type: ignore[arg-type]
    assert footprint is not None
    return footprint


def check(path: Path, precision: Precision | None = None) -> Footprint:
    """Both backends, in bfloat16, as on a card. What a card would keep."""
    for backend in ("torch", "cuda"):
        kind = CudaOps if backend == "cuda" else PlainOps
        checkpoint = open_model(path, models, precision or Precision())
        footprint = outlined(checkpoint, backend, dtype="bfloat16")
        weights, _, _ = taken(checkpoint, kind("cpu", torch.bfloat16))
        assert footprint.weights_bytes == pytest.approx(weights, rel=AGREES), backend
    return footprint


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_network(folder: Path) -> None:
    checkpoint = open_model(folder, models)
    for kind, kv_dtype in ((PlainOps, "auto"), (CudaOps, "fp8")):
        footprint = outlined(checkpoint, kind.name, kv_dtype=kv_dtype, dtype="bfloat16")
        found = taken(checkpoint, kind("cpu", torch.bfloat16, kv_dtype))
        assert found == (footprint.weights_bytes, footprint.kv_token_bytes, footprint.state_bytes)


def test_latent_attention_keeps_no_values_of_its_own() -> None:
    """They are a part of its keys."""
    (folder,) = (folder for folder in FOLDERS if folder.name == "deepseek2")
    checkpoint = open_model(folder, models)
    for kv_dtype, of_vector in (("auto", 0), ("fp8", 4)):
        ops = PlainOps("cpu", torch.bfloat16, kv_dtype)
        network = models.build(checkpoint.card, ops, checkpoint.source)
        pages = network.new_kv(3, 16, 2)[0]
        width = network.widths.latent + network.widths.rope
        assert pages.keys.shape == (4, 16, 1, width) and not pages.values.nbytes
        per_token = len(network.layers) * (width * pages.keys.element_size() + of_vector)
        footprint = outlined(checkpoint, "torch", kv_dtype=kv_dtype, dtype="bfloat16")
        assert footprint.kv_token_bytes == per_token


@pytest.mark.parametrize("quantization", ["none", "int8", "int4", "fp8"])
def test_weights_that_are_converted_while_they_load(tmp_path: Path, quantization: str) -> None:
    folder = random.folder_of(tmp_path / "model", None, {}, {})
    footprint = check(folder, Precision("bfloat16", quantization))
    kept = {"none": "BF16", "int8": "Q8_0", "int4": "Q4_0", "fp8": "FP8"}[quantization]
    assert kept in {weights.kept_as for weights in footprint.weights}


GPTQ = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq"}
METHODS: dict[str, tuple[random.Quantize, dict[str, Any], dict[str, str]]] = {
    "awq of 128": (random.awq(128), {"quant_method": "awq", "bits": 4}, {}),
    "awq of 32": (random.awq(32), {"quant_method": "awq", "bits": 4}, {}),
    "gptq of 128": (random.gptq(128), GPTQ | {"sym": False}, {}),
    "symmetric gptq of 32": (random.gptq(32, symmetric=True), GPTQ | {"sym": True}, {}),
    "gptq with act-order": (random.gptq(128, act_order=True), GPTQ | {"sym": False}, {}),
    "int8 for each output": (
        random.signed_bytes,
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
        {"weight": "I8"},
    ),
    "fp8 in tiles": (
        random.floats,
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"weight": "F8_E4M3"},
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_quantized_folders(tmp_path: Path, method: str) -> None:
    check(random.folder_of(tmp_path / "model", *METHODS[method]))


@pytest.mark.parametrize("name", ["q4_k_m", "q8_0", "bf16", "q2_k", "q6_k", "iq4_nl"])
def test_gguf_files(tmp_path: Path, name: str) -> None:
    check(gguf_of(tmp_path, name))


def gguf_of(folder: Path, name: str) -> Path:
    """A random Llama in one of the mixtures."""
    names = {
        "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output",
        "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
        "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    rng, tensors = np.random.default_rng(13), []
    for module, shape in random.shapes().items():
        parts = module.split(".")
        at = f"blk.{parts[2]}." if "layers" in parts else ""
        numbers = rng.normal(size=shape).astype("<f4")
        tensors.append(Tensor(f"{at}{names[parts[-1]]}.weight", shape[::-1], numbers.tobytes()))
    sizes = {
        "block_count": random.LAYERS,
        "embedding_length": random.HIDDEN,
        "feed_forward_length": random.INNER,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "rope.dimension_count": 64,
        "vocab_size": random.VOCABULARY,
    }
    keys = llama_keys() | {f"llama.{key}": value(U32, size) for key, size in sizes.items()}
    words = [str(word) for word in range(random.VOCABULARY)]
    keys["tokenizer.ggml.tokens"] = value(ARRAY, (STRING, words))
    keys["tokenizer.ggml.token_type"] = value(ARRAY, (U32, [1] * len(words)))
    (folder / "whole.gguf").write_bytes(File(keys, tensors).to_bytes())
    quantize_file(folder / "whole.gguf", folder / "model.gguf", mixture(name))
    return folder / "model.gguf"


@pytest.mark.parametrize("k", [96, 128, 320, 1152])
@pytest.mark.parametrize("form", ["Q4_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"])
def test_rows_of_any_length(form: str, k: int) -> None:
    """Codes are padded to whole steps."""
    raw = formats.get_packing(form).pack(np.random.default_rng(k).normal(size=(9, k)).astype("f4"))
    matrix = upload(Weight((9, k), (form,), (raw,), (9,)), torch.device("cpu"), torch.float32)
    assert matrix_bytes(form, 9, k, "float32") == (form, matrix.nbytes)


@pytest.mark.parametrize("group", [32, 64, 160])
def test_floats_in_groups_that_have_no_layout_are_unpacked(group: int) -> None:
    scales = np.random.default_rng(1).uniform(1, 2, (3, 320 // group)).astype(np.float32)
    raw = fp8.from_parts(np.zeros((3, 320), np.uint8), scales.repeat(group // 32, axis=1))
    matrix = upload(Weight((3, 320), ("FP8",), (raw,), (3,)), torch.device("cpu"), torch.bfloat16)
    kept = matrix_bytes("FP8", 3, 320, "bfloat16", Grouping(group, 4))
    assert kept == ("BF16", matrix.nbytes)
