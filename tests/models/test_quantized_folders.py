"""Networks from quantized folders: what they compute is what their dequantized weights compute."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pagemill import models
from pagemill.models import Model
from pagemill.ops.interface import Float32
from pagemill.ops.reference import ReferenceOps
from pagemill.weights import formats
from pagemill.weights.formats import fp8
from pagemill.weights.load import open_model
from pagemill.weights.safetensors import SafetensorsFile
from tests.models.test_golden import logits, new_kv
from tests.weights.safetensors_writer import file_of

LLAMA = Path(__file__).parents[1] / "golden" / "llama"
LEFT = "model.layers.1.self_attn.q_proj"  # as it was
PROMPT = np.array([5, 3, 40, 7, 7, 90, 4], np.int32)
# Of eight outputs, which one each half of a byte of a word has, from the lowest on.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Tensors = dict[str, NDArray[Any]]


def llama() -> Tensors:
    file = SafetensorsFile.open(LLAMA / "model.safetensors")
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


def write(folder: Path, tensors: Tensors, dtypes: dict[str, str], config: dict[str, Any]) -> Path:
    folder.mkdir()
    original = json.loads((LLAMA / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(original | config))
    (folder / "model.safetensors").write_bytes(file_of(tensors, dtypes))
    return folder


def network(folder: Path) -> Model:
    checkpoint = open_model(folder, models)
    return models.build(checkpoint.card, ReferenceOps(), checkpoint.source)


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
    for name, values in llama().items():
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


def test_quantization_shows_in_the_card(tmp_path: Path) -> None:
    tensors = llama()
    parts, _ = awq(tensors.pop("model.layers.0.self_attn.q_proj.weight"))
    tensors |= {f"model.layers.0.self_attn.q_proj.{part}": value for part, value in parts.items()}
    config = {"quantization_config": CONFIGS["awq"][1]}
    checkpoint = open_model(write(tmp_path / "ours", tensors, {}, config), models)
    weight = checkpoint.source.matrix(("blk.0.attn_q", 32), k=32)
    assert weight.formats == ("INT4",)
    assert checkpoint.source.matrix(("blk.1.attn_q", 32), k=32).formats == ("F32",)
    assert checkpoint.card.parameters == open_model(LLAMA, models).card.parameters
