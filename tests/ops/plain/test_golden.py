"""Whole networks on torch's own calls: every golden file, by the tests that other backends pass."""

from typing import Any

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.models import Model
from pagemill.ops.interface import Array, Float32, Step
from pagemill.ops.plain.ops import PlainOps
from pagemill.weights.load import open_model
from tests.models import test_encoders as encoders
from tests.models import test_golden as written
from tests.models.test_golden import (  # noqa: F401
    Golden,
    golden,
    test_a_prompt_in_chunks,
    test_greedy_text_equals_that_of_transformers,
    test_logits_equal_those_of_transformers,
    test_memory_that_others_used_is_as_new,
    test_prompts_together,
)


class OnSteps:
    """A network that takes numpy steps and gives numpy arrays, as the engine sees it."""

    def __init__(self, network: Model, ops: PlainOps) -> None:
        self.new_kv = network.new_kv
        self._ops, self._run = ops, ops.compile(network)

    def __call__(self, step: Step, kv: Array) -> Float32:
        return self._ops.fetch(self._run(step, kv))


@pytest.fixture(scope="module")
def ops() -> PlainOps:
    torch.set_num_threads(1)
    return PlainOps("cpu", torch.float32)


@pytest.fixture(scope="module")
def model(ops: PlainOps, golden: Golden) -> OnSteps:  # noqa: F811
    checkpoint = open_model(golden.model, models)
    return OnSteps(models.build(checkpoint.card, ops, checkpoint.source), ops)


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    with np.load(encoders.GOLDEN / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("file", encoders.FILES, ids=["gguf", "folder"])
@pytest.mark.parametrize("name", encoders.NAMES)
def test_vectors_and_scores(name: str, file: str, ops: PlainOps, vectors: dict[str, Any]) -> None:
    network = encoders.built(name, ops, file)
    model, kv = OnSteps(network, ops), network.new_kv(len(encoders.LENGTHS), encoders.PAGE_SIZE)
    got = model(encoders.step_of(vectors, encoders.LENGTHS), kv)
    want = np.stack([vectors[f"{name}_{length}"] for length in encoders.LENGTHS])
    np.testing.assert_allclose(got, want, rtol=0, atol=written.CLOSE)


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.2), (torch.float16, 0.005)])
def test_half_precision_is_near(dtype: torch.dtype, close: float) -> None:
    """Every operation takes the type: logits stay near (where experts are chosen by a hair, in the
    eight bits of bfloat16 others are), and are what was asked for."""
    for folder in written.FOLDERS:
        checkpoint = open_model(folder, models)
        ops = PlainOps("cpu", dtype)
        network = models.build(checkpoint.card, ops, checkpoint.source)
        prompt, expected, _ = Golden(folder, folder / "golden.npz").expected()[-1]
        logits = ops.compile(network)(written.step_of((prompt, 0)), network.new_kv(16, 16, 3))
        assert logits.dtype == dtype
        error = np.square(ops.fetch(logits) - expected).mean() / np.square(expected).mean()
        assert error**0.5 < close, folder.name


@pytest.mark.parametrize(
    ("kv_dtype", "bytes_", "close"),
    [("f32", 4, 1e-5), ("f16", 2, 2e-3), ("bf16", 2, 0.02), ("q8", 1, 0.06), ("fp8", 1, 0.2)],
)
def test_smaller_keys_and_values_are_near(kv_dtype: str, bytes_: int, close: float) -> None:
    """Logits of every network on the pages that `--kv-cache-dtype` asks for."""
    for folder in written.FOLDERS:
        checkpoint = open_model(folder, models)
        ops = PlainOps("cpu", torch.float32, kv_dtype)
        model = OnSteps(models.build(checkpoint.card, ops, checkpoint.source), ops)
        prompt, expected, _ = Golden(folder, folder / "golden.npz").expected()[-1]
        kv = model.new_kv(16, 16, 3)
        assert layer_of(kv).keys.element_size() == bytes_
        found = model(written.step_of((prompt, 0)), kv)
        error = np.square(found - expected).mean() / np.square(expected).mean()
        assert error**0.5 < close, folder.name
        assert bytes_ == 4 or error**0.5 > 1e-6, "nothing was rounded"


def layer_of(kv: Any) -> Any:
    """Pages of the first layer that has any."""
    return next(layer for layer in getattr(kv, "layers", kv) if hasattr(layer, "keys"))
