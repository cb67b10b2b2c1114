"""Kernels on pages of every type of `--kv-cache-dtype`, against torch's own calls on the same."""

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Float32
from pagemill.ops.plain.cache import KV_DTYPES
from pagemill.ops.plain.ops import PlainOps
from pagemill.weights.load import open_model
from tests.models.test_golden import HERE, step_of

PROMPT = np.array([5, 3, 40, 7, 7, 90, 4], np.int32)


def logits(ops: PlainOps) -> Float32:
    """Of a prompt, and of a token after it."""
    checkpoint = open_model(HERE / "llama", models)
    network = models.build(checkpoint.card, ops, checkpoint.source)
    model, kv = ops.compile(network), network.new_kv(16, 16, 3)
    return np.concatenate([ops.fetch(model(step_of(row), kv)) for row in ((PROMPT, 0), ([9], 7))])


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_pages_mean_the_same_to_kernels(kv_dtype: str) -> None:
    expected = logits(PlainOps("cpu", torch.float32, kv_dtype))
    found = logits(CudaOps("cpu", torch.float32, kv_dtype, kernels=True))
    close = 1e-2 if kv_dtype == "bf16" else 2e-3  # the interpreter cuts bfloat16 off, cards round
    np.testing.assert_allclose(found, expected, 0, close * np.abs(expected).max())
