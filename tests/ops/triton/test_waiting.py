"""Steps on the GPU backend ask the device nothing until their ids are wanted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.ops.cuda import CudaOps
from pagemill.ops.plain import sampling
from pagemill.ops.plain.step import to_device
from pagemill.weights.load import open_model
from tests.models.test_golden import HERE, NUM_PAGES, PAGE_SIZE, step_of
from tests.ops.case import normal
from tests.ops.sample_cases import Knobs, sample_rows
from tests.ops.triton.waiting import never

X = torch.arange(6.0).view(2, 3)
ASKS: dict[str, Callable[[], Any]] = {
    "item": X[0, 0].item,
    "tolist": X.tolist,
    "numpy": X.numpy,
    "cpu": X.cpu,
    "a condition": lambda: 1 if X[0, 0] > 0 else 2,
    "a number": lambda: int(X[1, 1]),
    "a size": lambda: X[:, : X[0, 1].int()],
    "nonzero": X.nonzero,
    "where alone": lambda: torch.where(X > 1),
    "a mask": lambda: X[X > 1],
    "a mask that is filled": lambda: X.clone().__setitem__(X > 1, torch.zeros(4)),
    "masked_select": lambda: X.masked_select(X > 1),
    "unique": X.unique,
    "bincount": lambda: X[0].int().bincount(),
    "repeats": lambda: X.repeat_interleave(torch.tensor([1, 2]), 0),
    "a list": lambda: X + torch.tensor([1.0, 2.0, 3.0]),
    "an array": lambda: X + torch.from_numpy(np.ones(3, np.float32)),
    "the same": lambda: torch.equal(X, X),
}


@pytest.mark.parametrize("name", ASKS)
def test_whoever_asks_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError), never(monkeypatch):
        ASKS[name]()


def test_what_asks_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor([1, 0], dtype=torch.int32)
    with never(monkeypatch) as calls:
        y = X[rows].clone()
        y[rows] = X.sort().values
        torch.where(y > 1, y, 0).cumsum(0).repeat_interleave(2, 0)
    assert calls.count > 5


@pytest.mark.parametrize("name", ["llama", "deepseek2", "gpt_oss", "granitehybrid"])
def test_more_rows_are_no_more_calls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = CudaOps("cpu", torch.float32, kernels=True)
    checkpoint = open_model(HERE / name, models)
    network = models.build(checkpoint.card, ops, checkpoint.source)
    run, kv = ops.compile(network), network.new_kv(NUM_PAGES, PAGE_SIZE, 3)
    counts = []
    run(step_of(([1], 0), ([2], 0), ([3], 0)), kv)
    for rows in ([([4], 1), ([5], 1)], [([4], 1), ([5], 1), ([6], 1)]):
        step = to_device(step_of(*rows), ops.device)
        with never(monkeypatch) as calls:
            run(step, kv)
        counts.append(calls.count)
    assert counts[0] == counts[1] > 0


def test_choosing_asks_nothing_before_its_answer_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Knobs go to the device in a copy that needs no answer, as those of steps do."""
    ops = CudaOps("cpu", torch.float32, kernels=True)
    knobs = [Knobs(0), Knobs(0.7, 40, 0.9, 0.05, seed=3), Knobs(top_k=3, num_logprobs=2)]
    logits, rows = torch.from_numpy(normal(np.random.default_rng(1), 3, 41)), sample_rows(knobs)
    expected = ops.sample(logits, rows)
    moved, answers = sampling.moved, []

    def pinned(columns: list[Any], device: torch.device) -> list[torch.Tensor]:
        calls.inside = True
        try:
            return moved(columns, device)
        finally:
            calls.inside = False

    def later(there: torch.Tensor) -> Callable[[], torch.Tensor]:
        answers.append(there)
        return lambda: there

    monkeypatch.setattr(sampling, "moved", pinned)
    monkeypatch.setattr(sampling, "to_host", later)
    with never(monkeypatch) as calls:
        wait = ops.sample_later(logits, rows)
    got = wait()
    assert len(answers) == 1
    np.testing.assert_array_equal(got.ids, expected.ids)
    np.testing.assert_array_equal(got.top_ids, expected.top_ids)
