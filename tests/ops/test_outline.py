"""The outline of a network: what it says is what the native kernels then take."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile, Unsupported
from pagemill.footprint import footprint_of
from pagemill.ops.interface import Array, Ops, Step
from pagemill.weights import formats
from pagemill.weights.load import Checkpoint, open_model
from pagemill.weights.precision import Precision
from tests.ops.case import weight

cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
OutlineOps = pytest.importorskip("pagemill.ops.outline").OutlineOps

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = [GOLDEN / "tiny_llama.gguf", *sorted(GOLDEN.glob("*/model.gguf"))]
FOLDERS = [path.parent for path in sorted(GOLDEN.glob("encoders/*/config.json"))]
PAGE_SIZE, TOKENS, SAMPLED = 16, 12, 3
ROUNDING = 4096 + 64 * 100  # a page at the end, and a cache line for each buffer


def step() -> Step:
    """One sequence, some of its tokens sampled."""
    positions = np.arange(TOKENS, dtype=np.int32)
    return Step(
        token_ids=np.arange(TOKENS, dtype=np.int32) % 7,
        positions=positions,
        slots=positions,
        row_starts=np.array([0, TOKENS], np.int32),
        kv_lens=np.array([TOKENS], np.int32),
        page_table=np.zeros((1, 1), np.int32),
        out_rows=np.arange(SAMPLED, dtype=np.int32),
        page_size=PAGE_SIZE,
        token_types=np.zeros(TOKENS, np.int32),
        state_slots=np.array([[-1, 0]], np.int32),
    )


@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "q8"])
def test_a_cache_takes_what_was_said(kv_dtype: str) -> None:
    path = GOLDEN / "tiny_llama.gguf"
    footprint = footprint_of(open_model(path, models), "cpu", kv_dtype)
    assert footprint is not None
    checkpoint = open_model(path, models)
    model = models.build(checkpoint.card, cpu.CpuOps(kv_dtype=kv_dtype), checkpoint.source)
    assert model.new_kv(4, PAGE_SIZE).nbytes == 4 * PAGE_SIZE * footprint.kv_token_bytes + 4096


class Counting(cpu.CpuOps):  # type: ignore[misc, name-defined]
    """The real backend, which remembers the sizes of its matrices."""

    weights_bytes = 0
    kv_bytes = state_bytes = 0

    def upload(self, weight: object, table: bool = False) -> object:
        matrix = super().upload(weight, table)
        self.weights_bytes += matrix.bytes
        return matrix

    def vector(self, values: object) -> object:
        self.weights_bytes += 4 * len(values)  # type: ignore[arg-type]
        return super().vector(values)

    def new_kv(self, *sizes: Any) -> object:
        kv = super().new_kv(*sizes)
        self.kv_bytes += kv.nbytes
        return kv

    def new_state(self, *sizes: int) -> object:
        state = super().new_state(*sizes)
        self.state_bytes += state.nbytes
        return state


@pytest.mark.parametrize(
    "path", [*FILES, *FOLDERS], ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_it_says_what_the_network_takes(path: Path) -> None:
    footprint = footprint_of(open_model(path, models), "cpu")
    assert footprint is not None and footprint.exact
    checkpoint = open_model(path, models)
    ops = Counting()
    model = models.build(checkpoint.card, ops, checkpoint.source)
    assert footprint.weights_bytes == ops.weights_bytes

    kv = model.new_kv(4, PAGE_SIZE, 5)
    if footprint.kv_token_bytes:
        assert ops.kv_bytes == 4 * PAGE_SIZE * footprint.kv_token_bytes + 4096
    assert ops.state_bytes == 5 * footprint.state_bytes
    run = ops.compile(model)
    sampled = len(run(step(), kv))
    planned = footprint.token_bytes * TOKENS + footprint.sampled_bytes * sampled
    taken = run.recording.program.arena_bytes
    assert planned <= taken <= planned + ROUNDING


def test_formats_without_a_kernel_count_what_they_become() -> None:
    checkpoint = open_model(GOLDEN / "tiny_llama.gguf", models, Precision(quantization="fp8"))
    footprint = footprint_of(checkpoint, "cpu")
    assert footprint is not None
    kept = {weights.format: weights for weights in footprint.weights}
    assert kept["FP8"].kept_as == "Q8_0"
    assert kept["FP8"].kept_bytes > kept["FP8"].stored_bytes


class Tables:
    """A network of embedding tables, one for each format."""

    def __init__(self, ops: Ops, names: Sequence[str]) -> None:
        self.ops = ops
        rng = np.random.default_rng(1)
        self.tables = [ops.upload(weight(rng, 4096, (name, 64)), table=True) for name in names]

    def new_kv(self, num_pages: int, page_size: int, slots: int) -> Array:
        return self.ops.new_kv(0, num_pages, page_size, 1, 16)

    def __call__(self, step: Step, kv: Array) -> Array:
        return self.ops.embed(step.token_ids, self.tables[0])


def test_it_says_which_formats_take_more_memory_than_their_file() -> None:
    names = {"IQ4_XS": "IQ4_XS", "IQ3_S": "4-bit codes", "IQ2_XS": "3-bit codes"}
    names |= {"TQ1_0": "2-bit codes", "TQ2_0": "TQ2_0", "INT8": "Q8_0"}
    outline = OutlineOps()
    footprint = outline.footprint(Tables(outline, list(names)), 64)
    native = Tables(cpu.CpuOps(), list(names))
    for kept, table in zip(footprint.weights, native.tables, strict=True):
        assert kept.kept_as == names[kept.format]
        assert kept.kept_bytes == table.bytes
        assert kept.stored_bytes == 64 * formats.bytes_per_row(kept.format, 4096)


def test_a_format_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_model(GOLDEN / "tiny_llama.gguf", models)
    embedding = checkpoint.source._tensors["token_embd.weight"]
    strange = replace(embedding, format="F64")  # type: ignore[type-var]
    monkeypatch.setitem(checkpoint.source._tensors, "token_embd.weight", strange)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="no kernel for F64"):
        footprint_of(checkpoint, "cpu")


def test_nothing_of_a_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_model(GOLDEN / "tiny_llama.gguf", models)
    touched: list[str] = []
    monkeypatch.setattr("pagemill.weights.stored.Plain.read", lambda *_: touched.append("read"))
    assert footprint_of(checkpoint, "cpu") is not None
    assert not touched


def test_a_network_is_whole_before_it_is_planned(checkpoint_without: Checkpoint) -> None:
    with pytest.raises(BadModelFile, match="output_norm"):
        footprint_of(checkpoint_without, "cpu")


@pytest.fixture
def checkpoint_without() -> Checkpoint:
    """A file that lacks a tensor."""
    checkpoint = open_model(GOLDEN / "tiny_llama.gguf", models)
    del checkpoint.source._tensors["output_norm.weight"]  # type: ignore[attr-defined]
    return checkpoint
