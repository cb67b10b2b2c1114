"""The GPU backend with its kernels: their operations in the shared table, and whole networks."""

from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Float32, Int32
from pagemill.ops.plain.ops import PlainOps
from pagemill.ops.plain.step import to_device
from pagemill.weights.load import open_model
from pagemill.weights.precision import Precision
from tests.models import test_encoders as encoders
from tests.models import test_golden as written
from tests.models.test_golden import Golden, new_kv
from tests.ops.case import Case, check
from tests.ops.cases import all_cases
from tests.ops.plain.adapter import OnArrays
from tests.ops.triton.waiting import never

WITH_KERNELS = (
    "attention", "latent_attention", "rms_norm", "layer_norm", "act_mul", "gated", "sigmoid_mul",
    "rope", "experts", "sample",
)  # fmt: skip
CASES = [case for case in all_cases() if case.op in WITH_KERNELS]
# Sampled rows are many, and the interpreter slow: those of the larger vocabulary are left out.
CASES = [case for case in CASES if case.op != "sample" or "41" in case.name]
# Each token's page is looked up, whatever its size; `test_decode` and `test_prefill` take others.
CASES = [case for case in CASES if case.page_size in (0, 1, 16)]


@pytest.fixture(scope="module")
def ops() -> CudaOps:
    return CudaOps("cpu", torch.float32, kernels=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # exp overflows on the way, as in numpy
def test_operations_agree_with_the_reference(case: Case, ops: CudaOps) -> None:
    check(case, OnArrays(ops))


@pytest.mark.parametrize("folder", written.FOLDERS, ids=lambda folder: folder.name)
def test_networks_give_the_logits_of_transformers(
    folder: Path, ops: CudaOps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beginning of a prompt in two parts, and a token after it. Once matrices and tables have
    found their places, in the first of these steps, no step waits for the device."""
    checkpoint = open_model(folder, models)
    network = models.build(checkpoint.card, ops, checkpoint.source)
    prompt, expected, _ = Golden(folder, folder / "golden.npz").expected()[-1]
    got = logits_of(network, ops, prompt, monkeypatch)
    np.testing.assert_allclose(got, expected[: len(got)], rtol=0, atol=written.CLOSE)


@pytest.mark.parametrize(
    ("name", "kind"), [("mixtral", "int4"), ("qwen3moe", "int8"), ("gpt_oss", "fp8")]
)
def test_mixtures_of_quantized_experts(
    name: str, kind: str, ops: CudaOps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with all of it unpacked."""
    checkpoint = open_model(written.HERE / name, models, Precision(quantization=kind))
    plain = PlainOps("cpu", torch.float32)
    exact, network = (
        models.build(checkpoint.card, made, checkpoint.source) for made in (plain, ops)
    )
    prompt = np.arange(5, 45, dtype=np.int32)
    step = written.step_of((prompt[: CUTS[-1]], 0))
    expected = plain.fetch(plain.compile(exact)(step, new_kv(exact)))
    got = logits_of(network, ops, prompt, monkeypatch)
    np.testing.assert_allclose(got, expected, 0, 1e-4 * np.abs(expected).max())


CUTS = (0, 9, 15, 16)


def logits_of(
    network: models.Model, ops: CudaOps, prompt: Int32, monkeypatch: pytest.MonkeyPatch
) -> Float32:
    """Of the first tokens of a prompt, in steps between `CUTS`."""
    run, kv, logits = ops.compile(network), new_kv(network), []
    for at, end in pairwise(CUTS):
        step = to_device(written.step_of((prompt[at:end], at)), ops.device)
        with never(monkeypatch) if at else nullcontext():
            logits.append(run(step, kv))
    return np.concatenate([ops.fetch(one) for one in logits])


@pytest.mark.parametrize("name", encoders.NAMES)
def test_encoders_give_the_vectors_of_transformers(name: str, ops: CudaOps) -> None:
    network = encoders.built(name, ops)
    with np.load(encoders.GOLDEN / "expected.npz", allow_pickle=False) as arrays:
        expected = dict(arrays)
    step = encoders.step_of(expected, encoders.LENGTHS)
    kv = network.new_kv(len(encoders.LENGTHS), encoders.PAGE_SIZE)
    want = np.stack([expected[f"{name}_{length}"] for length in encoders.LENGTHS])
    got = ops.fetch(ops.compile(network)(step, kv))
    np.testing.assert_allclose(got, want, rtol=0, atol=written.CLOSE)
