"""Chosen ids against the reference: knobs alone and together, and rows at the edges of the plan."""

import numpy as np
import pytest
import torch

from pagemill.ops.interface import Float32, SampleRows
from pagemill.ops.reference import ReferenceOps
from pagemill.ops.triton import sampling
from tests.ops.case import normal
from tests.ops.sample_cases import Knobs, sample_rows

INF = float("inf")
# exp(-inf - x) and what comes of rows without numbers.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def _tensors(rows: SampleRows, vocab: int) -> list[torch.Tensor]:
    words = rows.seeds.view(np.int32).reshape(-1, 2).T.copy()
    top_k = np.where(rows.top_k < vocab, rows.top_k, 0).astype(np.int32)
    columns = (rows.temperature, top_k, rows.top_p, rows.min_p, words, rows.positions)
    return [torch.from_numpy(column) for column in columns]


def _check(logits: Float32, knobs: list[Knobs]) -> None:
    rows = sample_rows(knobs)
    got = sampling.sample(torch.from_numpy(logits), *_tensors(rows, logits.shape[1]))
    np.testing.assert_array_equal(got, ReferenceOps().sample(logits, rows).ids)


@pytest.fixture
def short_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a few hundred logits have several tiles, and lists hold few ids."""
    monkeypatch.setattr(sampling, "_TILE", 128)


@pytest.mark.parametrize("vocab", [1, 41, 150])
@pytest.mark.usefixtures("short_tiles")
def test_every_knob_alone_and_together(vocab: int) -> None:
    knobs = [
        *(Knobs(temperature, seed=2**63 + i) for i, temperature in enumerate((0, 0.01, 1, 3))),
        *(Knobs(top_k=k, seed=k, position=k) for k in (1, 2, 127, 149, 150, 900)),
        *(Knobs(top_p=p, seed=9, position=1) for p in (0.0, 1e-6, 0.1, 0.5, 0.9, 0.999)),
        *(Knobs(min_p=p, seed=8, position=3) for p in (1e-7, 0.01, 0.5, 1.0)),
        *(Knobs(0.7, 40, 0.9, 0.05, seed=2**32 * i + 5, position=i) for i in range(3)),
        Knobs(1.5, 50, 0.99),
    ]
    logits = normal(np.random.default_rng(vocab), len(knobs), vocab)
    for spread in (0.1, 5.0):  # the choice lies among all, or few
        _check(logits * np.float32(spread), knobs)


@pytest.mark.usefixtures("short_tiles")
def test_of_equals_the_lower_ids_are_kept() -> None:
    rng = np.random.default_rng(4)
    knobs = [
        Knobs(i % 4 / 2, i % 9 * 7, (0.3, 0.5, 0.8, 1.0)[i // 2 % 4], seed=i) for i in range(8)
    ]
    _check(rng.integers(0, 3, (8, 150)).astype(np.float32), knobs)
    zeros = np.where(rng.random((8, 150)) < 0.5, np.float32(0), np.float32(-0.0))
    _check(zeros, knobs)


@pytest.mark.usefixtures("short_tiles")
def test_what_is_not_finite() -> None:
    rng = np.random.default_rng(5)
    logits = normal(rng, 7, 70)
    logits[0] = -INF
    logits[1] = np.nan
    logits[2, 5] = INF
    logits[3, ::2] = np.nan
    logits[4, 1:] = -INF
    logits[5, :40] = -INF
    logits[6, 7:] = np.nan
    for knobs in (Knobs(0), Knobs(), Knobs(0.5, 60, 0.7, 0.1)):
        _check(logits, [knobs] * 7)


def test_rows_of_whole_tiles() -> None:
    """Sizes as they are launched, of two tiles."""
    logits = normal(np.random.default_rng(6), 6, 2 * 2048 - 5) * 4
    knobs = [Knobs(0), Knobs(seed=3), Knobs(0.6, 20, 0.95), Knobs(top_p=0.9), Knobs(min_p=0.1)]
    _check(logits, [*knobs, Knobs(5.0, 3000, 0.9, seed=1)])


def test_greedy_rows_are_asked_for_nothing_else() -> None:
    logits = normal(np.random.default_rng(7), 5, 99)
    rows = sample_rows([Knobs(0)] * 5)
    got = sampling.sample(torch.from_numpy(logits), *_tensors(rows, 99), draws=False)
    np.testing.assert_array_equal(got, logits.argmax(-1))
    assert got.dtype == torch.int32


def test_no_rows() -> None:
    rows = _tensors(sample_rows([]), 9)
    assert sampling.sample(torch.zeros(0, 9), *rows).shape == (0,)


def test_halves_are_widened() -> None:
    logits = (normal(np.random.default_rng(8), 4, 60) * 3).astype(np.float16)
    rows = sample_rows([Knobs(0.7, 20, 0.9, seed=i) for i in range(4)])
    got = sampling.sample(torch.from_numpy(logits), *_tensors(rows, 60))
    np.testing.assert_array_equal(got, ReferenceOps().sample(logits.astype(np.float32), rows).ids)
