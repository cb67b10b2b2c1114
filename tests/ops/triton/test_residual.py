"""Sums that wait for a norm: the same numbers, in fewer launches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.ops.cuda import CudaOps
from pagemill.ops.residual import Residual, normed, whole
from pagemill.ops.triton import norms, rope_cache
from pagemill.weights.load import open_model
from tests.models.test_golden import HERE, NUM_PAGES, PAGE_SIZE, step_of
from tests.ops.case import normal


def tensors(count: int, *shape: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(3)
    return [torch.from_numpy(normal(rng, *shape)) for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_norm_computes_the_sum_that_waited(dtype: torch.dtype) -> None:
    ops = CudaOps("cpu", dtype, kernels=True)
    weight, shift = torch.rand(24), torch.rand(24)
    for norm in (
        lambda x: ops.rms_norm(x, weight, 1e-5),
        lambda x: ops.layer_norm(x, weight, shift, 1e-5),
    ):
        x, y, z = (part.to(dtype) for part in tensors(3, 5, 24))
        waiting: Any = ops.residual(x) + y
        assert torch.equal(norm(waiting), norm(x + y))
        assert torch.equal(whole(waiting), x + y)
        assert torch.equal(norm(waiting + z), norm(x + y + z))
        assert torch.equal(norm(waiting), norm(x + y)), "asked again, it is there already"


@pytest.mark.parametrize(
    "touch",
    [
        lambda x: x[torch.tensor([2, 0])],
        lambda x: x.reshape(4, 15),
        lambda x: x + torch.ones(5, 12),
        lambda x: torch.ones(5, 12) + x,
        lambda x: CudaOps("cpu", torch.float32).scale(x, 0.5),
        lambda x: CudaOps("cpu", torch.float32).softcap(x, 0.5),
        lambda x: x.shape,
    ],
)
def test_whatever_touches_a_sum_finds_it(touch: Callable[[Any], Any]) -> None:
    x, y = tensors(2, 5, 12)
    got, want = whole(touch(Residual(x) + y)), touch(x + y)
    assert torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want


def test_a_norm_of_what_has_nothing_to_add_is_a_norm() -> None:
    (x,) = tensors(1, 5, 12)
    assert torch.equal(normed(Residual(x), torch.neg), -x)
    assert torch.equal(normed(x, torch.neg), -x)


# Of two layers' sums, those that a norm reads next; the last one's sampled rows are picked first.
NETWORKS = {
    "llama": 3,
    "gemma2": 3,  # norms on both sides
    "starcoder2": 3,  # layer norms
    "granite": 3,  # what is added has a factor
    "command_r": 1,  # two are added to each
    "olmo2": 0,  # products read them
}


@pytest.mark.parametrize(("name", "sums"), NETWORKS.items())
def test_networks_reach_the_kernels(name: str, sums: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums inside norms; rotation with storing, in one launch a layer."""
    calls = {"sums": 0, "stored": 0}
    launch, turn = norms._launch, rope_cache.rope_and_store

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls["sums"] += args[4] is not None
        return launch(*args, **kwargs)

    def turned(*args: Any) -> Any:
        calls["stored"] += 1
        return turn(*args)

    monkeypatch.setattr(norms, "_launch", counted)
    monkeypatch.setattr(rope_cache, "rope_and_store", turned)
    monkeypatch.delattr(rope_cache, "rope")
    ops = CudaOps("cpu", torch.float32, kernels=True)
    checkpoint = open_model(HERE / name, models)
    network = models.build(checkpoint.card, ops, checkpoint.source)
    ops.compile(network)(step_of(([3, 1, 4], 0)), network.new_kv(NUM_PAGES, PAGE_SIZE, 3))
    assert calls == {"sums": sums, "stored": checkpoint.card.layers}
