"""A tiny random Llama against the logits that transformers computed for it in float32."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pagemill import models
from pagemill.models import Model
from pagemill.ops.interface import Ops, Step
from pagemill.ops.reference import ReferenceOps
from pagemill.weights.load import open_model

PAGE_SIZE, NUM_PAGES = 16, 8
LENGTHS = (1, 5, 40)
# Pages out of order, so that a backend which ignores the page table is found out.
PAGES = np.array([5, 2, 7, 1, 6], np.int32)


@pytest.fixture(params=["reference", "cpu"])
def ops(request: pytest.FixtureRequest) -> Ops:
    if request.param == "reference":
        return ReferenceOps()
    cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
    backend: Ops = cpu.CpuOps(threads=1, kv_dtype="f32")
    return backend


@pytest.fixture
def model(ops: Ops, tiny_llama_path: Path) -> Model:
    checkpoint = open_model(tiny_llama_path, models)
    return models.build(checkpoint.card, ops, checkpoint.source)


@pytest.fixture(scope="module")
def golden(tiny_llama_path: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(tiny_llama_path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return dict(arrays)


def step_of(ids: list[int], start: int) -> Step:
    """One sequence whose first `start` tokens were computed before; all rows are sampled."""
    positions = np.arange(start, start + len(ids), dtype=np.int32)
    return Step(
        token_ids=np.array(ids, np.int32),
        positions=positions,
        slots=PAGES[positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE,
        row_starts=np.array([0, len(ids)], np.int32),
        kv_lens=np.array([start + len(ids)], np.int32),
        page_table=PAGES[None],
        out_rows=np.arange(len(ids), dtype=np.int32),
        page_size=PAGE_SIZE,
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_logits_equal_those_of_transformers(model, golden, length):
    prompt = golden[f"prompt_{length}"].tolist()
    logits = np.asarray(model(step_of(prompt, 0), model.new_kv(NUM_PAGES, PAGE_SIZE)))
    np.testing.assert_allclose(logits, golden[f"logits_{length}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", LENGTHS)
def test_greedy_text_equals_that_of_transformers(model, golden, length):
    kv = model.new_kv(NUM_PAGES, PAGE_SIZE)
    ids, start, answer = golden[f"prompt_{length}"].tolist(), 0, []
    for _ in golden[f"greedy_{length}"]:
        logits = np.asarray(model(step_of(ids, start), kv))
        start += len(ids)
        ids = [int(logits[-1].argmax())]
        answer += ids
    assert answer == golden[f"greedy_{length}"].tolist()


def test_greedy_text_varies(golden):
    assert all(len(set(golden[f"greedy_{length}"].tolist())) > 12 for length in LENGTHS)
