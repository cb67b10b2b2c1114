"""Matrices whose inputs were sorted by group (GPTQ's act-order): four bits, the same numbers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Order, Weight
from pagemill.ops.plain.hosted import HostLayers
from pagemill.ops.plain.layouts.coded import Coded
from pagemill.ops.plain.layouts.dense import Dense
from pagemill.ops.plain.layouts.sorted import Sorted
from pagemill.ops.plain.layouts.stacked import Stacked
from pagemill.ops.plain.matrices import of_heads, upload
from pagemill.ops.plain.ops import PlainOps
from pagemill.ops.reference import ReferenceOps
from pagemill.weights import formats
from pagemill.weights.formats import int4
from pagemill.weights.load import open_model
from tests.models import random_folders as random
from tests.models.test_golden import logits, new_kv, step_of
from tests.ops.plain.test_hosted import FakeTransfers
from tests.ops.plain.test_outline import GPTQ, outlined

CPU = torch.device("cpu")
PROMPT = np.array([5, 3, 40, 7, 7, 90, 4], np.int32)
K = 256


def weight_of(*orders: Order | None, layer: int | None = None) -> Weight:
    """Nine rows for each order, in groups of 128."""
    rng, parts = np.random.default_rng(5), []
    for _ in orders:
        scales = rng.uniform(0.01, 0.02, (9, K // 128)).astype(np.float32).repeat(4, axis=1)
        zeros = rng.integers(0, 16, (9, K // 128), np.uint8).repeat(4, axis=1)
        parts.append(int4.from_parts(rng.integers(0, 16, (9, K), np.uint8), scales, zeros))
    count = len(parts)
    forms = ("INT4",) * count
    return Weight((9 * count, K), forms, tuple(parts), (9,) * count, layer=layer, orders=orders)


def an_order(seed: int) -> Order:
    return np.random.default_rng(seed).permutation(K).astype(np.int32)


@pytest.mark.parametrize("keep_codes", [True, False])
@pytest.mark.parametrize(
    ("orders", "kind"),
    [
        ((an_order(1),), Sorted),
        ((an_order(1), an_order(1), an_order(1)), Sorted),  # as q, k and v have it
        ((an_order(1), an_order(2)), Stacked),
        ((an_order(1), None), Stacked),
    ],
)
def test_a_sorted_matrix_means_what_the_reference_says(
    orders: tuple[Order | None, ...], kind: type, keep_codes: bool
) -> None:
    weight = weight_of(*orders)
    expected = ReferenceOps().upload(weight)
    for at, order in enumerate(orders):
        rows = formats.get("INT4").unpack(weight.parts[at])
        wanted = expected[9 * at : 9 * at + 9]
        np.testing.assert_array_equal(rows, wanted if order is None else wanted[:, order])
    matrix = upload(weight, CPU, torch.float32, keep_codes)
    assert isinstance(matrix, kind if keep_codes else Dense)
    if isinstance(matrix, Sorted):
        assert isinstance(matrix.parts[0], Coded) and matrix.parts[0].group == 128
    np.testing.assert_array_equal(matrix.rows(torch.arange(matrix.n)).numpy(), expected)
    np.testing.assert_array_equal(of_heads(matrix, 3, CPU).flatten(0, 1).numpy(), expected)
    x = torch.randn(5, K)
    torch.testing.assert_close(
        matrix.product(x), x @ torch.from_numpy(expected).T, atol=1e-5, rtol=1e-5
    )


def test_sorted_matrices_may_come_from_the_host() -> None:
    host = HostLayers(0, CPU, FakeTransfers())
    ops = CudaOps("cpu", torch.float32)
    ops.host = host
    weights = [weight_of(an_order(layer), layer=layer) for layer in range(3)]
    matrices = [ops.upload(weight) for weight in weights]
    for layer in (0, 1, 2, 0):
        host.fetch(layer)
        expected = ReferenceOps().upload(weights[layer])
        np.testing.assert_array_equal(matrices[layer].rows(torch.arange(9)).numpy(), expected)


@pytest.mark.parametrize("symmetric", [True, False])
def test_networks_with_act_order(tmp_path: Path, symmetric: bool) -> None:
    """On tensors as on the reference, in half the bytes; on the CPU backend nearly."""
    quantize = random.gptq(128, act_order=True, symmetric=symmetric)
    folder = random.folder_of(tmp_path / "model", quantize, GPTQ | {"sym": symmetric}, {})

    def network(ops: Any) -> Any:
        checkpoint = open_model(folder, models)
        return models.build(checkpoint.card, ops, checkpoint.source)

    exact = network(ReferenceOps())
    expected = logits(exact, new_kv(exact), (PROMPT, 0))
    for kind in (PlainOps, CudaOps):
        ops = kind("cpu", torch.float32)
        model = network(ops)
        found = ops.fetch(ops.compile(model)(step_of((PROMPT, 0)), model.new_kv(16, 16, 3)))
        np.testing.assert_allclose(found, expected, 0, 1e-5 * np.abs(expected).max())
    footprint = outlined(open_model(folder, models), "cuda")
    (four_bits,) = (kept for kept in footprint.weights if kept.format == "INT4")
    elements = sum(math.prod(shape) for name, shape in random.shapes().items() if "_proj" in name)
    assert four_bits.kept_bytes < 4.3 * elements / 8
    native = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
    model = network(native.CpuOps(threads=1, kv_dtype="f32"))
    near = logits(model, new_kv(model), (PROMPT, 0))
    np.testing.assert_allclose(near, expected, 0, 0.03 * np.abs(expected).max())
