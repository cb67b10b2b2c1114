"""Kernels on tensors that claim to lie on a card: each gets only such, and no step waits."""

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes
from triton.runtime import interpreter

from pagemill import models
from pagemill.ops.cuda import CudaOps
from pagemill.weights.load import open_model
from pagemill.weights.precision import Precision
from tests.models.test_golden import HERE, new_kv, step_of
from tests.ops.plain.elsewhere import Device, Elsewhere, pretended

HOPPER = SimpleNamespace(
    multi_processor_count=4,
    major=9,
    minor=0,
    shared_memory_per_block=48 << 10,
    shared_memory_per_block_optin=227 << 10,
)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    launch = interpreter.GridExecutor.__call__

    def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = [part for part in (*args, *kwargs.values()) if isinstance(part, torch.Tensor)]
        assert all(isinstance(part, Elsewhere) for part in given), "a kernel got the host's tensor"
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            return launch(self, *map(_here, args), **{k: _here(v) for k, v in kwargs.items()})

    with pretended("cuda", monkeypatch) as device, monkeypatch.context() as patch:
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        patch.setattr(torch.cuda, "get_device_capability", lambda _: (HOPPER.major, HOPPER.minor))
        patch.setattr(torch.cuda, "get_device_properties", lambda _: HOPPER)
        yield device


def _here(part: Any) -> Any:
    return part.numbers if isinstance(part, Elsewhere) else part


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gemma3", ""),
        ("gpt_oss", ""),
        ("deepseek2", ""),
        ("granitehybrid", ""),
        ("mixtral", "int4"),
    ],
)
def test_networks_give_the_logits_of_torchs_own_calls(name: str, kind: str, card: Device) -> None:
    precision = (Precision(quantization=kind),) if kind else ()
    checkpoint = open_model(HERE / name, models, *precision)
    prompt, found = np.arange(5, 14, dtype=np.int32), []
    for kernels in (False, True):
        ops = CudaOps("cuda", torch.float32, kernels=kernels)
        network = models.build(checkpoint.card, ops, checkpoint.source)
        run, kv, logits = ops.compile(network), new_kv(network), []
        for at, end in ((0, 5), (5, 8), (8, 9)):
            with card.step() if kernels and at else nullcontext():
                result = run(step_of((prompt[at:end], at)), kv)
            logits.append(ops.fetch(result))
        found.append(np.concatenate(logits))
    np.testing.assert_allclose(found[1], found[0], 0, 1e-4 * np.abs(found[0]).max())
