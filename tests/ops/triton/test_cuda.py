"""The GPU backend with its kernels: their operations in the shared table, and whole networks."""

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.ops.cuda import CudaOps
from pagemill.weights.load import open_model
from tests.models import test_golden as written
from tests.models.test_golden import Golden
from tests.ops.case import Case, check
from tests.ops.cases import all_cases
from tests.ops.plain.adapter import OnArrays

WITH_KERNELS = (
    "attention", "latent_attention", "rms_norm", "layer_norm", "act_mul", "gated", "sigmoid_mul",
    "rope", "experts", "sample",
)  # fmt: skip
CASES = [case for case in all_cases() if case.op in WITH_KERNELS]
# Sampled rows are many, and the interpreter slow: those of the larger vocabulary are left out.
CASES = [case for case in CASES if case.op != "sample" or "41" in case.name]


@pytest.fixture(scope="module")
def ops() -> CudaOps:
    return CudaOps("cpu", torch.float32, kernels=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # exp overflows on the way, as in numpy
def test_operations_agree_with_the_reference(case: Case, ops: CudaOps) -> None:
    check(case, OnArrays(ops))


# Plain heads; windows and caps; sinks; values that are a part of the keys.
NETWORKS = ("llama", "gemma2", "gpt_oss", "deepseek2")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_the_tokens_that_transformers_gave(name: str, ops: CudaOps) -> None:
    """A prompt in two parts, then token by token."""
    folder = written.HERE / name
    checkpoint = open_model(folder, models)
    network = models.build(checkpoint.card, ops, checkpoint.source)
    run, kv = ops.compile(network), network.new_kv(written.NUM_PAGES, written.PAGE_SIZE, 3)
    prompt, _, expected = Golden(folder, folder / "golden.npz").expected()[-1]
    half = len(prompt) // 2
    run(written.step_of((prompt[:half], 0)), kv)
    ids, start, answer = prompt[half:].tolist(), half, []
    for _ in expected:
        last = ops.fetch(run(written.step_of((ids, start)), kv))[-1]
        start += len(ids)
        ids = [int(last.argmax())]
        answer += ids
    np.testing.assert_array_equal(answer, expected)
