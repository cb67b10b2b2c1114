"""Quantized weights on the GPU backend: every format by its kernel, and whole networks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.ops.cuda import CudaOps
from pagemill.ops.plain.layouts.float8 import Float8
from pagemill.ops.plain.layouts.stacked import Stacked
from pagemill.ops.plain.ops import PlainOps
from pagemill.ops.products import Multiplied, of_float8
from pagemill.weights import formats
from pagemill.weights.load import open_model
from pagemill.weights.precision import Precision
from tests.models import test_quantized_folders as folders
from tests.models.test_golden import Golden, step_of
from tests.ops.case import Case, check, normal
from tests.ops.cases import BLOCKS, all_cases
from tests.ops.plain.adapter import OnArrays
from tests.ops.plain.test_layouts import meaning, some_rows

LLAMA = Path(__file__).parents[2] / "golden" / "llama"
CASES = [
    case
    for case in all_cases()
    if case.op in ("linear", "linear_heads")
    and any(size in case.name for size in ("1x288", "3x64", "17x", "2 rows", "fused", "heads"))
    and any(f" {name}" in case.name or f"+{name}" in case.name for name in BLOCKS)
]


@pytest.fixture(scope="module")
def ops() -> CudaOps:
    return CudaOps("cpu", torch.float32, kernels=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_products_agree_with_the_reference(case: Case, ops: CudaOps) -> None:
    check(case, OnArrays(ops))


def test_without_kernels_nothing_is_put_around_matrices(ops: CudaOps) -> None:
    weight = open_model(LLAMA, models, Precision(quantization="int4")).source.matrix(
        ("blk.0.attn_q", 32), k=32
    )
    assert isinstance(ops.upload(weight), Multiplied)
    assert not isinstance(CudaOps("cpu", torch.float32).upload(weight), Multiplied)


def test_parts_of_a_fused_matrix_have_their_kernels(ops: CudaOps) -> None:
    from pagemill.ops.interface import Weight

    parts = [some_rows(name, 5, 256) for name in ("Q4_K", "Q6_K")]
    matrix = ops.upload(Weight((10, 256), ("Q4_K", "Q6_K"), tuple(parts), (5, 5)))
    assert isinstance(matrix, Stacked)
    assert all(isinstance(part, Multiplied) for part in matrix.parts)


@pytest.mark.parametrize("blocks", [1, 2])
def test_eight_bit_floats_round_activations(blocks: int) -> None:
    rng = np.random.default_rng(1)
    scales = rng.uniform(0.1, 1, (33, blocks)).astype(np.float32)
    codes = rng.integers(0, 127, (33, 256), np.uint8)
    raw = formats.fp8.from_parts(codes, scales.repeat(8 // blocks, axis=1))
    matrix = Float8(
        torch.from_numpy(codes).view(torch.float8_e4m3fn),
        torch.from_numpy(scales.T.copy()),
        torch.float32,
    )
    x = normal(rng, 3, 256)
    expected = x @ meaning(("FP8", raw)).T
    got = of_float8(torch.from_numpy(x), matrix).numpy()
    # Activations keep four bits: 3 % each, and less in sums of many.
    error = np.square(got - expected).mean() / np.square(expected).mean()
    assert 1e-4 < error**0.5 < 0.04


def answers(ops: PlainOps, path: Path, precision: Precision | None = None) -> np.ndarray:
    """Logits of a prompt and of one token after it."""
    checkpoint = open_model(path, models, precision or Precision())
    network = models.build(checkpoint.card, ops, checkpoint.source)
    run, kv = ops.compile(network), network.new_kv(16, 16, 3)
    prompt = folders.PROMPT
    first = ops.fetch(run(step_of((prompt, 0)), kv))
    return np.concatenate([first, ops.fetch(run(step_of(([9], len(prompt))), kv))])


# Codes are multiplied exactly; eight-bit floats, unpacked where nothing multiplies them, as well.
@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("file", ["", "model.gguf"])
def test_quantization_lands_in_layouts(kind: str, file: str, ops: CudaOps) -> None:
    from pagemill.ops.reference import ReferenceOps
    from tests.models.test_golden import logits, new_kv

    precision = Precision(quantization=kind)
    checkpoint = open_model(LLAMA / file, models, precision)
    exact = models.build(checkpoint.card, ReferenceOps(), checkpoint.source)
    expected = logits(exact, new_kv(exact), (folders.PROMPT, 0))
    got = answers(ops, LLAMA / file, precision)[: len(expected)]
    np.testing.assert_allclose(got, expected, 0, 1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("method", ["awq", "fbgemm"])
def test_quantized_folders(tmp_path: Path, method: str, ops: CudaOps) -> None:
    quantize, config = folders.CONFIGS[method]
    tensors, meant, dtypes = {}, {}, {}
    for name, values in folders.full(LLAMA).items():
        module = name.removesuffix(".weight")
        if not module.endswith("_proj"):
            tensors[name] = meant[name] = values
            continue
        parts, meant[name] = quantize(values)
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
        if method == "fbgemm":
            dtypes[name] = "F8_E4M3"
    exact = folders.write(tmp_path / "exact", meant, {}, {})
    ours = folders.write(tmp_path / "ours", tensors, dtypes, {"quantization_config": config})
    expected, got = answers(PlainOps("cpu", torch.float32), exact), answers(ops, ours)
    np.testing.assert_allclose(got, expected, 0, 1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    golden = Golden(LLAMA, LLAMA / "golden.npz")
    prompt, expected, _ = golden.expected()[-1]
    checkpoint = open_model(LLAMA, models, Precision(quantization="int8"))
    ops = CudaOps("cpu", dtype, kernels=True)
    network = models.build(checkpoint.card, ops, checkpoint.source)
    run, kv = ops.compile(network), network.new_kv(16, 16, 3)
    got = ops.fetch(run(step_of((prompt, 0)), kv))
    error = np.square(got - expected).mean() / np.square(expected).mean()
    assert error**0.5 < 0.1
