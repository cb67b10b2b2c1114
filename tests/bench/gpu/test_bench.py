"""Limits, tasks that break or come too late, and the comparison with the reference."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pagemill import models
from pagemill.bench.gpu import agree, children, found, parts, random_weights
from pagemill.bench.gpu.bench import Bench, Limits, Skip, Task, Work, carry_out
from pagemill.bench.gpu.found import Line, Row
from pagemill.bench.gpu.llama import CopyingOps, Untrained, load, write
from pagemill.bench.gpu.sizes import TINY
from pagemill.bench.gpu.steps import alike
from pagemill.weights import formats
from pagemill.weights.load import open_model

ROW = Row("something", "of a size", 1.0, "us")
CPU = torch.device("cpu")


def bench(seconds: float = 60.0) -> Bench:
    return Bench(CPU, TINY, Limits(), time.time() + seconds)


def test_the_nearer_limit_is_the_one_that_takes_longer() -> None:
    limits = Limits(bytes=1e12, bf16=1e15, fp8=2e15, launch_s=1e-6)
    assert limits.bound(Work(4e9, 1e9)) == (pytest.approx(4e-3), "memory")
    assert limits.bound(Work(1e6, 4e12)) == (pytest.approx(4e-3), "bf16")
    assert limits.bound(Work(1e6, 4e12, "fp8")) == (pytest.approx(2e-3), "fp8")
    assert limits.bound(Work(1e3, 1e3)) == (pytest.approx(1e-6), "launch")


def test_a_rate_that_was_not_measured_is_that_of_bf16() -> None:
    assert Limits(bytes=1e12, bf16=1e15).bound(Work(1.0, 1e12, "int8")) == (1e-3, "bf16")


def test_limits_are_the_best_of_what_was_measured() -> None:
    of_memory = [replace(ROW, limit="memory", figure=figure) for figure in (3000.0, 4000.0)]
    limits = Limits.of([*of_memory, replace(ROW, limit="launch", figure=2.0)])
    assert limits.bytes == 4e12 and limits.launch_s == pytest.approx(2e-6) and limits.bf16 == 0


def test_a_task_that_breaks_leaves_the_others() -> None:
    def breaks() -> Iterator[Row]:
        yield ROW
        raise RuntimeError("an illegal access\nand more")

    def skips() -> Iterator[Row]:
        raise Skip("there is no such thing here")

    tasks = [Task("first", breaks), Task("second", skips), Task("third", lambda: [ROW])]
    lines = list(carry_out("part", tasks, bench()))
    assert [bool(line.row) for line in lines] == [True, False, False, True]
    assert lines[1].failed == "first: RuntimeError: an illegal access"
    assert lines[2].skipped == "second: there is no such thing here"


def test_what_comes_too_late_is_named() -> None:
    lines = list(carry_out("part", [Task("one", lambda: [ROW]), Task("two", list)], bench(-1.0)))
    assert lines == [Line("part", skipped="its time was up before: one, two")]


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "found"
    found.append(path, Line("part", row=ROW))
    with path.open("ab") as file:
        file.write(b'{"part":"pa')
    assert found.read(path) == [Line("part", row=ROW)]


def test_parts_without_time_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "found"
    children.run(parts.PARTS[:2], "cpu", True, 0.0, path)
    assert [bool(line.skipped) for line in found.read(path)] == [True, True]


def test_a_process_that_breaks_is_a_failure_of_its_part(tmp_path: Path) -> None:
    path = tmp_path / "found"
    children.run(parts.PARTS[:1], "nonsense", True, 60.0, path)
    assert [line.failed for line in found.read(path)] == ["its process ended with 1"]


def test_limits_come_with_every_part_and_others_are_refused() -> None:
    assert [part.name for part in parts.named("peer")] == ["limits", "peer"]
    with pytest.raises(ValueError, match="attention"):
        parts.named("atention")


class _Case:
    """A case of the table whose results are off by so much."""

    tolerance = 1e-5

    def __init__(self, off: float) -> None:
        self._off = off

    def outputs(self, ops: Any) -> list[Any]:
        ours = ops == "ours"
        return [np.ones(3, np.float32) * (1 + (self._off if ours else 0)), np.arange(3)]


@pytest.mark.parametrize(("off", "dtype", "wrong"), [
    (0.0, torch.float32, False), (1e-3, torch.float32, True), (float("nan"), torch.float32, True),
    (1e-3, torch.bfloat16, False), (0.1, torch.bfloat16, True),
])  # fmt: skip
def test_a_difference_is_seen(off: float, dtype: torch.dtype, wrong: bool) -> None:
    assert bool(agree._difference(_Case(off), "ours", dtype)) == wrong


def test_the_table_of_cases_is_missing_from_an_installed_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(agree.pagemill, "__file__", str(tmp_path / "pagemill" / "__init__.py"))
    (line,) = carry_out("agree", agree.tasks(bench()), bench())
    assert "installed package" in line.skipped


@pytest.mark.parametrize("form", ["BF16", "FP8", "Q8_0", "INT4", "Q4_K"])
def test_random_weights_are_numbers_of_one_size(form: str) -> None:
    made = random_weights.stored(form, 40, 256)
    values = formats.get(form).unpack(made)
    assert values.shape == (40, 256) and np.isfinite(values).all()
    assert 0.001 < float(values.std()) < 1


def test_int4_weights_have_groups_of_128() -> None:
    heads = random_weights.stored("INT4", 8, 512).reshape(8, 4, 4, -1)[:, :, :, :5]
    assert (heads == heads[:, :, :1]).all()


def test_every_layer_has_a_matrix_of_its_own_on_the_device() -> None:
    source = Untrained(TINY.small, "INT4")
    ops = CopyingOps("cpu", torch.bfloat16)
    network: Any = models.build(source.card, ops, source)
    first, second = (layer.attention.output.weight for layer in network.layers)
    assert first is not second and first.codes.data_ptr() != second.codes.data_ptr()
    assert torch.equal(first.unpack(), second.unpack())


def test_the_bytes_of_a_step_are_all_weights_but_a_table_that_is_looked_up() -> None:
    shape = TINY.large
    loaded = load(shape, "BF16", CPU)
    matrices = loaded.layer_parameters - (2 * shape.layers + 1) * shape.hidden  # less norms
    assert loaded.read_bytes == 2 * (matrices + shape.vocab * shape.hidden)
    tied = load(TINY.small, "BF16", CPU)
    norms = (2 * TINY.small.layers + 1) * TINY.small.hidden
    assert tied.read_bytes == 2 * (tied.card.parameters - norms)


def test_the_written_file_is_the_same_network(tmp_path: Path) -> None:
    path = tmp_path / "untrained.gguf"
    write(TINY.small, path)
    card, wanted = open_model(path, models).card, Untrained(TINY.small, "BF16").card
    assert card.norm_eps == pytest.approx(wanted.norm_eps)  # single precision in the file
    assert replace(card, name="", norm_eps=0) == replace(wanted, name="", norm_eps=0)


def test_rows_alike_lie_in_pages_of_their_own() -> None:
    step = alike(3, 20, 2, 16)
    assert len(set(step.page_table.reshape(-1).tolist())) == 6
    assert len(set(step.slots.tolist())) == 6
    assert (step.kv_lens == 22).all() and step.out_rows.tolist() == [1, 3, 5]


@pytest.mark.parametrize(("asked", "number"), [("cuda", 3), ("cuda:1", 1)])
def test_a_card_without_a_number_is_the_current_one(
    monkeypatch: pytest.MonkeyPatch, asked: str, number: int
) -> None:
    """Torch makes no card current that is not named by its number."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    assert parts._ready(torch.device(asked)) == torch.device("cuda", number)
    assert chosen == [number]
    with pytest.raises(ValueError, match="specified index"):
        torch.cuda.set_device(torch.device("cuda"))
    assert parts._ready(torch.device("cpu")) == torch.device("cpu")
