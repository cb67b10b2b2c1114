"""Which backend computes where nobody said."""

import importlib.util
from dataclasses import replace

import pytest

from pagemill import gpus
from pagemill.backends import with_backend
from pagemill.config import EngineConfig
from tests.samples import TINY_CARD


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a GPU, with native kernels."""
    monkeypatch.setattr(gpus, "usable", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def chosen(backend: str = "auto", device: str = "auto", through: str = "") -> str:
    card = replace(TINY_CARD, through=through)
    return with_backend(EngineConfig(backend=backend, device=device), card).backend


def test_native_kernels_where_they_were_built(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen() == "cpu"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen() == "reference"


def test_a_gpu_where_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "usable", lambda: True)
    assert chosen() == "cuda"
    assert chosen(device="cpu") == "cpu"
    assert chosen("reference") == "reference"
    assert chosen(through="transformers") == "transformers"


@pytest.mark.parametrize(("device", "backend"), [("cuda:1", "cuda"), ("mps", "torch")])
def test_what_computes_on_the_device(device: str, backend: str) -> None:
    assert chosen(device=device) == backend
