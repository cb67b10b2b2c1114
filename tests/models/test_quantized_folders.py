"""Networks from quantized folders: what they compute is what their dequantized weights compute."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pagemill import models
from pagemill.footprint import footprint_of
from pagemill.models import Model
from pagemill.ops.interface import Float32, Ops
from pagemill.ops.reference import ReferenceOps
from pagemill.types import KeptWeights
from pagemill.weights import formats
from pagemill.weights.formats import fp8, mxfp4
from pagemill.weights.load import open_model
from pagemill.weights.safetensors import SafetensorsFile
from tests.models.test_golden import logits, new_kv
from tests.weights.safetensors_writer import file_of

LLAMA = Path(__file__).parents[1] / "golden" / "llama"
GPT_OSS = LLAMA.with_name("gpt_oss")
LEFT = "model.layers.1.self_attn.q_proj"  # as it was
PROMPT = np.array([5, 3, 40, 7, 7, 90, 4], np.int32)
# Of eight outputs, which one each half of a byte of a word has, from the lowest on.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Tensors = dict[str, NDArray[Any]]


def full(folder: Path) -> Tensors:
    """The weights of a folder in float32."""
    file = SafetensorsFile.open(folder / "model.safetensors")
    return {
        name: formats.get(info.dtype).unpack(file.data(name).reshape(1, -1)).reshape(info.shape)
        for name, info in file.tensors.items()
    }


def awq(weight: Float32) -> tuple[Tensors, Float32]:
    """Four bits with a scale and a zero point for each 32 inputs of an output, or for all."""
    outputs, inputs = weight.shape
    groups = weight.reshape(outputs, -1, inputs if inputs % 32 else 32)
    low, high = groups.min(axis=2), groups.max(axis=2)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.rint(-low / scales).clip(0, 15).astype(np.int64)
    quants = np.rint(groups / scales[:, :, None].astype(np.float32)) + zeros[:, :, None]
    quants = quants.clip(0, 15).astype(np.int64)
    meaning = (quants - zeros[:, :, None]) * scales[:, :, None].astype(np.float32)
    parts: Tensors = {"qweight": awq_words(quants.reshape(outputs, inputs).T)}
    parts |= {"qzeros": awq_words(zeros.T), "scales": np.ascontiguousarray(scales.T)}
    return parts, meaning.reshape(outputs, inputs).astype(np.float32)


def awq_words(numbers: NDArray[np.int64]) -> NDArray[np.int32]:
    words = np.zeros((len(numbers), numbers.shape[1] // 8), np.int64)
    for place, output in enumerate(AWQ_ORDER):
        words |= numbers[:, output::8] << (4 * place)
    return words.astype(np.uint32).view(np.int32)


def float8(weight: Float32) -> tuple[Tensors, Float32]:
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(448)
    rounded = fp8.nearest(weight / scale)
    return {"weight": rounded, "weight_scale": scale}, fp8.table()[rounded] * scale


def float4(weight: Float32) -> tuple[Tensors, Float32]:
    """Experts' matrices (count, inputs, outputs) in gpt-oss's MXFP4: outputs first, neighbouring
    inputs in the halves of a byte."""
    rows = np.ascontiguousarray(weight.swapaxes(1, 2))
    blocks = mxfp4.pack(rows.reshape(-1, rows.shape[2])).reshape(-1, mxfp4.BLOCK_BYTES)
    low, high = blocks[:, 1:] & 15, blocks[:, 1:] >> 4
    numbers = np.concatenate([low, high], axis=1)  # in the order of inputs
    pairs = (numbers[:, ::2] | numbers[:, 1::2] << 4).reshape(*rows.shape[:2], -1, 16)
    meaning = mxfp4.unpack(blocks).reshape(rows.shape).swapaxes(1, 2)
    return {"blocks": pairs, "scales": blocks[:, 0].reshape(pairs.shape[:3])}, meaning


def write(
    folder: Path,
    tensors: Tensors,
    dtypes: dict[str, str],
    config: dict[str, Any],
    like: Path = LLAMA,
) -> Path:
    folder.mkdir()
    original = json.loads((like / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(original | config))
    (folder / "model.safetensors").write_bytes(file_of(tensors, dtypes))
    return folder


def network(folder: Path, ops: Ops | None = None) -> Model:
    checkpoint = open_model(folder, models)
    return models.build(checkpoint.card, ops or ReferenceOps(), checkpoint.source)


CONFIGS = {
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}),
    "fbgemm": (float8, {"quant_method": "fbgemm_fp8", "modules_to_not_convert": [LEFT]}),
}


@pytest.mark.parametrize("method", CONFIGS)
def test_a_quantized_folder(tmp_path: Path, method: str) -> None:
    quantize, config = CONFIGS[method]
    quantized: Tensors = {}
    meaning: Tensors = {}
    dtypes: dict[str, str] = {}
    for name, values in full(LLAMA).items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj") or module == LEFT:
            quantized[name] = meaning[name] = values
            continue
        parts, meaning[name] = quantize(values)
        quantized |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
        if method == "fbgemm":
            dtypes[name] = "F8_E4M3"
    exact = network(write(tmp_path / "exact", meaning, {}, {}))
    ours = network(write(tmp_path / "ours", quantized, dtypes, {"quantization_config": config}))
    expected = logits(exact, new_kv(exact), (PROMPT, 0))
    np.testing.assert_allclose(logits(ours, new_kv(ours), (PROMPT, 0)), expected, 0, 1e-4)
    original = network(LLAMA)
    assert np.abs(expected - logits(original, new_kv(original), (PROMPT, 0))).max() > 0.01


def test_experts_in_four_bit_floats(tmp_path: Path) -> None:
    """gpt-oss: rows of gate and up take turns, and stay as they are stored when they are parted."""
    quantized = full(GPT_OSS)
    meaning = dict(quantized)
    for layer in (0, 1):
        name = f"model.layers.{layer}.mlp.experts.gate_up_proj"
        parts, meaning[name] = float4(quantized.pop(name))
        quantized |= {f"{name}_{part}": tensor for part, tensor in parts.items()}
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    folder = write(tmp_path / "ours", quantized, {}, config, GPT_OSS)
    (first, *_) = open_model(folder, models).source.experts(
        ("blk.0.ffn_gate_exps", 24), ("blk.0.ffn_up_exps", 24), k=32, count=4
    )
    assert first.formats == ("MXFP4", "MXFP4")
    ours, exact = network(folder), network(write(tmp_path / "exact", meaning, {}, {}, GPT_OSS))
    expected = logits(exact, new_kv(exact), (PROMPT, 0))
    np.testing.assert_allclose(logits(ours, new_kv(ours), (PROMPT, 0)), expected, 0, 1e-4)

    cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
    (kept,) = (part for part in outlined(folder) if part.format == "MXFP4")
    assert kept.kept_as == "MXFP4"
    native = network(folder, cpu.CpuOps(threads=2, kv_dtype="f32"))
    got = logits(native, new_kv(native), (PROMPT, 0))
    rounded_activations = 1e-2 * np.abs(expected).max()
    np.testing.assert_allclose(got, expected, 0, rounded_activations)


def outlined(folder: Path) -> Sequence[KeptWeights]:
    """How the cpu backend would keep the matrices of a folder."""
    footprint = footprint_of(open_model(folder, models), "cpu")
    assert footprint is not None
    return footprint.weights


def test_quantization_shows_in_the_card(tmp_path: Path) -> None:
    tensors = full(LLAMA)
    parts, _ = awq(tensors.pop("model.layers.0.self_attn.q_proj.weight"))
    tensors |= {f"model.layers.0.self_attn.q_proj.{part}": value for part, value in parts.items()}
    config = {"quantization_config": CONFIGS["awq"][1]}
    checkpoint = open_model(write(tmp_path / "ours", tensors, {}, config), models)
    weight = checkpoint.source.matrix(("blk.0.attn_q", 32), k=32)
    assert weight.formats == ("INT4",)
    assert checkpoint.source.matrix(("blk.1.attn_q", 32), k=32).formats == ("F32",)
    assert checkpoint.card.parameters == open_model(LLAMA, models).card.parameters
