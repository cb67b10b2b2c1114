"""Networks on tensors that claim to lie on a card, or on Apple's GPU: nothing may mix devices, make
a type that a device has not, or wait for a card in a step."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.models import Model
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Float32
from pagemill.ops.plain import experts
from pagemill.ops.plain.ops import PlainOps
from pagemill.weights.load import open_model
from pagemill.weights.precision import Precision
from tests.models import test_encoders as encoders
from tests.models import test_golden as written
from tests.models.test_golden import Golden, new_kv, step_of
from tests.ops.case import normal
from tests.ops.plain.elsewhere import Device, Elsewhere, pretended
from tests.ops.sample_cases import Knobs, sample_rows

FEW = ("llama", "gemma3", "gpt_oss", "deepseek2", "granitehybrid")


@pytest.fixture(params=["cuda", "mps"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    torch.set_num_threads(1)
    with pretended(request.param, monkeypatch) as found:
        yield found


def ops_on(device: Device, dtype: torch.dtype = torch.float32, kv_dtype: str = "auto") -> PlainOps:
    kind = device.device.type
    if kind == "mps":
        return PlainOps(kind, dtype, kv_dtype)
    return CudaOps(kind, dtype, kv_dtype, kernels=False)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: x[torch.tensor([1, 0])],
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: 1 if x[0] > 0 else 2,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
        lambda x: x.copy_(torch.ones(3)),
    ],
)
def test_what_a_card_would_mind_is_found(
    ask: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretended("cuda", monkeypatch) as device:
        x = torch.ones(3, device="cuda")
        assert (x + 1).device == torch.device("cuda:0")
        with pytest.raises(AssertionError), device.step():
            ask(x)


@pytest.mark.parametrize(
    "ask",
    [lambda x: x.double(), lambda x: x.cumsum(0, dtype=torch.float64), lambda x: x.to("cuda")],
)
def test_what_apples_gpu_has_not_is_found(
    ask: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretended("mps", monkeypatch), pytest.raises(AssertionError):
        ask(torch.ones(3, device="mps"))


@pytest.mark.parametrize("folder", written.FOLDERS, ids=lambda folder: folder.name)
def test_networks_give_the_logits_of_transformers(
    folder: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = ops_on(device)
    checkpoint = open_model(folder, models)
    network = models.build(checkpoint.card, ops, checkpoint.source)
    prompt, expected, _ = Golden(folder, folder / "golden.npz").expected()[-1]
    got = logits_of(network, ops, prompt, device, monkeypatch)
    np.testing.assert_allclose(got, expected[: len(got)], rtol=0, atol=written.CLOSE)


@pytest.mark.parametrize("kv_dtype", ["f16", "q8", "fp8"])
@pytest.mark.parametrize("name", FEW)
def test_smaller_keys_and_values(
    name: str, kv_dtype: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed in two bytes, as these devices do."""
    dtype = torch.float16 if device.device.type == "mps" else torch.bfloat16
    ops = ops_on(device, dtype, kv_dtype)
    checkpoint = open_model(written.HERE / name, models)
    network = models.build(checkpoint.card, ops, checkpoint.source)
    prompt, expected, _ = Golden(
        written.HERE / name, written.HERE / name / "golden.npz"
    ).expected()[-1]
    got = logits_of(network, ops, prompt, device, monkeypatch)
    error = np.square(got - expected[: len(got)]).mean() / np.square(expected[: len(got)]).mean()
    assert error**0.5 < 0.3


@pytest.mark.parametrize("kind", ["int4", "int8", "fp8"])
@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek2"])
def test_quantized_networks(
    name: str, kind: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the CPU."""
    checkpoint = open_model(written.HERE / name, models, Precision(quantization=kind))
    ops = ops_on(device)
    plain = CudaOps("cpu", torch.float32, kernels=False)
    plain.keeps_codes = ops.keeps_codes  # type: ignore[misc]
    prompt, found = np.arange(5, 45, dtype=np.int32), []
    for each in (plain, ops):
        network = models.build(checkpoint.card, each, checkpoint.source)
        found.append(logits_of(network, each, prompt, device, monkeypatch))
    np.testing.assert_allclose(found[0], found[1], 0, 1e-4 * np.abs(found[0]).max())


def logits_of(
    network: Model, ops: PlainOps, prompt: Any, device: Device, monkeypatch: pytest.MonkeyPatch
) -> Float32:
    """Of a prompt's first tokens, in three steps, of which two have another row as well."""
    mixture = experts.mixture

    def waits(*args: Any) -> Any:  # as it says
        hurried, device.hurried = device.hurried, False
        try:
            return mixture(*args)
        finally:
            device.hurried = hurried

    monkeypatch.setattr(experts, "mixture", waits)
    run, kv, logits = ops.compile(network), new_kv(network), []
    steps = [
        step_of((prompt[:9], 0)),
        step_of((prompt[9:15], 9), (prompt[:3], 0)),
        step_of((prompt[15:16], 15), (prompt[3:4], 3)),
    ]
    for number, (step, take) in enumerate(zip(steps, (9, 6, 1), strict=True)):
        with device.step() if number else nullcontext():  # at first tables are made
            result = run(step, kv)
        assert isinstance(result, Elsewhere) == (ops.device.type != "cpu")
        logits.append(ops.fetch(result)[:take])
    return np.concatenate(logits)


@pytest.mark.parametrize("name", encoders.NAMES)
def test_vectors_and_scores(name: str, device: Device) -> None:
    ops = ops_on(device)
    network = encoders.built(name, ops)
    with np.load(encoders.GOLDEN / "expected.npz", allow_pickle=False) as arrays:
        expected = dict(arrays)
    step = encoders.step_of(expected, encoders.LENGTHS)
    kv = network.new_kv(len(encoders.LENGTHS), encoders.PAGE_SIZE)
    got = ops.fetch(ops.compile(network)(step, kv))
    want = np.stack([expected[f"{name}_{length}"] for length in encoders.LENGTHS])
    np.testing.assert_allclose(got, want, rtol=0, atol=written.CLOSE)


def test_choosing(device: Device) -> None:
    """Knobs of all kinds: the same ids and log-probabilities as on the CPU, and on a card nothing
    waits before the answer is wanted."""
    knobs = [Knobs(0), Knobs(0.7, 40, 0.9, 0.05, seed=3), Knobs(top_k=3, num_logprobs=2)]
    rows = sample_rows(knobs)
    logits = torch.from_numpy(normal(np.random.default_rng(1), 3, 41))
    expected = PlainOps("cpu", torch.float32).sample(logits, rows)
    ops, there = ops_on(device), logits.to(device.device)
    if isinstance(ops, CudaOps):
        with device.step():
            wait = ops.sample_later(there, rows)
        got = wait()
    else:
        got = ops.sample(there, rows)
    np.testing.assert_array_equal(got.ids, expected.ids)
    np.testing.assert_array_equal(got.top_ids, expected.top_ids)
