"""Weights in another format than the file's, and how little memory that takes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import Unsupported
from pagemill.ops.reference import ReferenceOps
from pagemill.weights import formats
from pagemill.weights.load import Checkpoint, open_model
from pagemill.weights.precision import Precision
from tests.weights.safetensors_writer import CONFIG, llama_tensors, write_folder

LLAMA = Path(__file__).parents[1] / "golden" / "llama"  # in BF16
Q, GATE = ("blk.0.attn_q", 32), ("blk.0.ffn_gate", 48)


def opened(path: Path, **asked: str) -> Checkpoint:
    return open_model(path, models, Precision(**asked))


@pytest.mark.parametrize("path", [LLAMA, LLAMA / "model.gguf"], ids=["safetensors", "gguf"])
@pytest.mark.parametrize(
    ("dtype", "form", "error"), [("float32", "F32", 0.0), ("bfloat16", "BF16", 0.0)]
)
def test_dtype_converts_matrices(path: Path, dtype: str, form: str, error: float) -> None:
    stored, converted = opened(path), opened(path, dtype=dtype)
    weight = converted.source.matrix(Q, k=32)
    assert weight.formats == (form,)
    ops = ReferenceOps()
    np.testing.assert_array_equal(ops.upload(weight), ops.upload(stored.source.matrix(Q, k=32)))
    assert converted.card.quantization == form
    assert converted.card.parameters == stored.card.parameters


def test_a_dtype_that_cannot_hold_a_value_is_refused(tmp_path: Path) -> None:
    tensors = llama_tensors()
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name] * np.float32(1e6)
    source = opened(write_folder(tmp_path / "some", tensors), dtype="float16").source
    source.matrix(("blk.0.ffn_gate", 16), k=8)
    with pytest.raises(Unsupported, match=r"up_proj\.weight' has values that float16 cannot"):
        source.matrix(("blk.0.ffn_up", 16), k=8)


@pytest.mark.parametrize(("asked", "form"), [("int8", "Q8_0"), ("int4", "Q4_0"), ("fp8", "FP8")])
def test_quantization_packs_matrices(asked: str, form: str) -> None:
    stored, quantized = opened(LLAMA), opened(LLAMA, quantization=asked)
    (rows,) = stored.source.matrix(Q, k=32).parts
    weight = quantized.source.matrix(Q, k=32)
    assert weight.formats == (form,)
    expected = formats.get_packing(form).pack(formats.get("BF16").unpack(rows))
    np.testing.assert_array_equal(weight.parts[0], expected)
    assert quantized.source.matrix(("token_embd", 96), k=32).formats == ("Q8_0",)
    assert quantized.source.matrix(("output", 96), k=32).formats == ("Q8_0",)
    assert quantized.card.quantization == form
    assert quantized.card.weights_bytes < 0.7 * stored.card.weights_bytes


def test_rows_of_no_whole_blocks_stay(tmp_path: Path) -> None:
    weight = opened(LLAMA, quantization="int8").source.matrix(("blk.0.ffn_down", 32), k=48)
    assert weight.formats == ("BF16",)
    folder = write_folder(tmp_path / "some")
    with pytest.raises(Unsupported, match="'some': --quantization int8 is for weights in full"):
        opened(folder, quantization="int8")  # its rows have 8 and 16 elements


def test_what_is_quantized_already_is_refused(smollm2_path: Path) -> None:
    with pytest.raises(Unsupported, match="--quantization int4 is for weights in full precision"):
        opened(smollm2_path, quantization="int4")


@pytest.mark.parametrize("asked", ["int8", "int4"])
def test_a_quantized_network_is_near(asked: str) -> None:
    from tests.models.test_golden import Golden, logits, new_kv

    golden = Golden(LLAMA, LLAMA / "golden.npz")
    checkpoint = opened(LLAMA, quantization=asked)
    model = models.build(checkpoint.card, ReferenceOps(), checkpoint.source)
    prompt, expected, _ = golden.expected()[-1]
    got = logits(model, new_kv(model), (prompt, 0))
    error = np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2))
    assert 1e-4 < error < (0.05 if asked == "int8" else 0.5)


MEASURE = """
import resource, sys
from pathlib import Path
from pagemill import models
from pagemill.weights.load import open_model
from pagemill.weights.precision import Precision

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

most = 0
source = open_model(sys.argv[1], models, Precision(quantization=sys.argv[2])).source
before, kept = anonymous(), []
for layer in range(int(sys.argv[3])):
    for part in ("ffn_gate", "ffn_up", "ffn_down"):
        rows, k = (2048, 1024) if part != "ffn_down" else (1024, 2048)
        kept += source.matrix((f"blk.{layer}.{part}", rows), k=k).parts
        most = max(most, anonymous() - before - sum(part.nbytes for part in kept))
print(most)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_quantizing_needs_little_more_memory_than_its_result(tmp_path: Path) -> None:
    layers = 12  # 300 MB in F32
    values = np.random.default_rng(1).standard_normal((2048, 1024)).astype(np.float32)
    tensors = llama_tensors()
    for layer in range(layers):
        at = f"model.layers.{layer}.mlp"
        tensors[f"{at}.gate_proj.weight"] = tensors[f"{at}.up_proj.weight"] = values
        tensors[f"{at}.down_proj.weight"] = values.reshape(1024, 2048)
    config = {**CONFIG, "num_hidden_layers": layers}
    folder = write_folder(tmp_path / "some", tensors, config)
    assert (folder / "model.safetensors").stat().st_size > 300_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), "int8", str(layers)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    # One tensor is 8 MB in F32; of each thread's slabs there are some copies.
    assert json.loads(done.stdout) < 48 << 20
