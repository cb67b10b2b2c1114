"""docs/adding.md promises that a relative of Llama is one file and no other edit: its example."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.ops.interface import Float32, Ops, Step
from pagemill.ops.reference import ReferenceOps
from tests.fakes import TinySource
from tests.ops.cases import ragged_step
from tests.samples import TINY_CARD

PAGE = Path(__file__).parents[2] / "docs" / "adding.md"
CARD = replace(TINY_CARD, architecture="my", hidden_size=32, ffn_size=64, head_dim=8, rope_dim=8)
PROMPT = np.array([5, 3, 40, 7, 7, 1, 0], np.int32)


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's example as the module `my`, where `models` looks for architectures."""
    example = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert example is not None
    (tmp_path / "my.py").write_text(example[1])
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    yield
    sys.modules.pop("pagemill.models.my", None)


def step(computed_len: int, num_tokens: int) -> Step:
    made = ragged_step([computed_len], [num_tokens], np.arange(4, dtype=np.int32), 16)
    return replace(made, token_ids=PROMPT[computed_len : computed_len + num_tokens])


def logits(ops: Ops, *takes: int) -> Float32:
    """Of the prompt's last token, computed in so many pieces."""
    network = models.build(CARD, ops, TinySource(CARD))
    model, kv, computed_len = ops.compile(network), network.new_kv(4, 16), 0
    for take in takes:
        out = model(step(computed_len, take), kv)
        computed_len += take
    return np.array(out)


def test_the_example_is_found_and_is_not_llama() -> None:
    assert "my" in models.architectures()
    ops = ReferenceOps()
    elder = models.build(replace(CARD, architecture="llama"), ops, TinySource(CARD))
    assert not np.allclose(logits(ops, 7), elder(step(0, 7), elder.new_kv(4, 16)))
    np.testing.assert_array_equal(logits(ops, 7), logits(ops, 4, 2, 1))


def test_every_backend_runs_the_same_text() -> None:
    cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
    ours = logits(cpu.CpuOps(kv_dtype="f32"), 4, 3)
    np.testing.assert_allclose(ours, logits(ReferenceOps(), 7), rtol=1e-4, atol=1e-3)
