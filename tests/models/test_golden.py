"""Tiny random networks against what transformers computed for them in float32.

A row for each folder of tests/golden that make.py made, read from its safetensors and from its GGUF
file; tiny_llama.gguf besides, which the `gguf` package wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.models import Model
from pagemill.ops.interface import Float32, Int32, Ops, Step
from pagemill.ops.reference import ReferenceOps
from pagemill.weights.load import open_model

HERE = Path(__file__).parents[1] / "golden"
PAGE_SIZE, NUM_PAGES, ROW_PAGES = 16, 16, 5
# Pages of three rows, out of order, so that a backend which ignores the page table is found out.
PAGES = np.array([[5, 2, 7, 1, 6], [9, 12, 0, 11, 4], [3, 15, 8, 10, 14]], np.int32)
CLOSE = 1e-4


@dataclass(frozen=True)
class Golden:
    """A model and what is expected of it."""

    model: Path
    arrays: Path

    def __str__(self) -> str:
        return f"{self.arrays.parent.name} {self.model.suffix.lstrip('.') or 'safetensors'}"

    def expected(self) -> list[tuple[Int32, Float32, Int32]]:
        """Prompts, logits of all their rows, greedy text; short ones first."""
        with np.load(self.arrays, allow_pickle=False) as arrays:
            lengths = sorted(int(name[7:]) for name in arrays if name.startswith("prompt_"))
            return [
                tuple(arrays[f"{part}_{length}"] for part in ("prompt", "logits", "greedy"))
                for length in lengths
            ]


FOLDERS = sorted(arrays.parent for arrays in HERE.glob("*/golden.npz"))
GOLDENS = [
    Golden(HERE / "tiny_llama.gguf", HERE / "tiny_llama.npz"),
    *(Golden(folder / "model.gguf", folder / "golden.npz") for folder in FOLDERS),
    *(Golden(folder, folder / "golden.npz") for folder in FOLDERS),
]


@pytest.fixture(params=GOLDENS, ids=str, scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    found: Golden = request.param
    return found


@pytest.fixture(params=["reference", "cpu"], scope="module")
def ops(request: pytest.FixtureRequest) -> Ops:
    if request.param == "reference":
        return ReferenceOps()
    cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
    backend: Ops = cpu.CpuOps(threads=1, kv_dtype="f32")
    return backend


@pytest.fixture(scope="module")
def model(ops: Ops, golden: Golden) -> Model:
    checkpoint = open_model(golden.model, models)
    return models.build(checkpoint.card, ops, checkpoint.source)


def state_slots(*starts: int) -> Int32:
    """Of each row its own, from its second step on."""
    slots = (2, 0, 1)[: len(starts)]
    pairs = zip(starts, slots, strict=True)
    return np.array([[slot if start else -1, slot] for start, slot in pairs], np.int32)


def step_of(*rows: tuple[Sequence[int], int]) -> Step:
    """Sequences of so many tokens, of which so many came before; all rows are sampled."""
    starts = np.cumsum([0, *(len(ids) for ids, _ in rows)])
    positions = np.concatenate([start + np.arange(len(ids)) for ids, start in rows])
    of_row = np.repeat(np.arange(len(rows)), np.diff(starts))
    return Step(
        token_ids=np.concatenate([ids for ids, _ in rows]).astype(np.int32),
        positions=positions.astype(np.int32),
        slots=PAGES[of_row, positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE,
        row_starts=starts.astype(np.int32),
        kv_lens=np.array([start + len(ids) for ids, start in rows], np.int32),
        page_table=PAGES[: len(rows)],
        out_rows=np.arange(len(positions), dtype=np.int32),
        page_size=PAGE_SIZE,
        state_slots=state_slots(*(start for _, start in rows)),
    )


def logits(model: Model, kv: object, *rows: tuple[Sequence[int], int]) -> Float32:
    return np.array(model(step_of(*rows), kv))


def new_kv(model: Model) -> object:
    return model.new_kv(NUM_PAGES, PAGE_SIZE, 3)


def test_logits_equal_those_of_transformers(model: Model, golden: Golden) -> None:
    for prompt, expected, _ in golden.expected():
        got = logits(model, new_kv(model), (prompt, 0))
        np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)


def test_greedy_text_equals_that_of_transformers(model: Model, golden: Golden) -> None:
    """Token by token on cached keys and values."""
    for prompt, _, expected in golden.expected():
        kv, ids, start, answer = new_kv(model), prompt.tolist(), 0, []
        for _ in expected:
            last = logits(model, kv, (ids, start))[-1]
            start += len(ids)
            ids = [int(last.argmax())]
            answer += ids
        assert answer == expected.tolist()


@pytest.mark.parametrize("size", [3, 7])
def test_a_prompt_in_chunks(model: Model, golden: Golden, size: int) -> None:
    prompt, expected, _ = golden.expected()[-1]
    kv = new_kv(model)
    chunks = [
        logits(model, kv, (prompt[start : start + size], start))
        for start in range(0, len(prompt), size)
    ]
    np.testing.assert_allclose(np.concatenate(chunks), expected, rtol=0, atol=CLOSE)


def test_prompts_together(model: Model, golden: Golden) -> None:
    expected = golden.expected()
    got = logits(model, new_kv(model), *((prompt, 0) for prompt, _, _ in expected))
    want = np.concatenate([rows for _, rows, _ in expected])
    np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE)


def test_memory_that_others_used_is_as_new(model: Model, golden: Golden) -> None:
    """Pages, and slots of states, of which nothing may be read that was there before."""
    first, second = (golden.expected()[index][0] for index in (0, -1))
    alone, kv = logits(model, new_kv(model), (second, 0)), new_kv(model)
    logits(model, kv, (first, 0))
    np.testing.assert_array_equal(logits(model, kv, (second, 0)), alone)


def test_greedy_text_varies(golden: Golden) -> None:
    assert all(len(set(text.tolist())) > 3 for _, _, text in golden.expected())
