"""The command on this processor with tiny sizes: every part runs, and the table has its rows."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pagemill.bench.gpu.found import rows
from pagemill.bench.gpu.parts import PARTS
from pagemill.bench.gpu.table import Record

ROOT = Path(__file__).parents[3]
# Beginnings of what each part must have found here.
EXPECTED = {
    "limits": ["memory, copy", "memory, read", "bf16 products", "launch of", "graph of"],
    "agree": ["agrees with the reference, float32", "agrees with the reference, bfloat16"],
    "attention": [f"attention, decode, {kind}" for kind in ("bf16", "fp8", "q8")]
    + ["attention, prefill"],
    "products": ["product, bf16", "product, fp8", "product, int8", "product, int4", "experts"],
    "elementwise": ["rms_norm", "rope and store", "silu", "sampling, greedy", "sampling, top_k"],
    "networks": [
        f"{shape}, {form}, {what}"
        for shape in ("tiny", "less tiny")
        for form in ("bf16", "fp8", "w4a16")
        for what in ("decode", "prefill")
    ],
    "engine": ["engine, tiny, graphs", "engine, less tiny, graphs", "engine, tiny, eager"],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, str, int]:
    """What it wrote and printed, and its exit status."""
    path = tmp_path_factory.mktemp("gpu") / "found.json"
    command = [sys.executable, "-m", "pagemill.bench.gpu", "--device", "cpu", "--tiny"]
    command += ["--json", str(path), "--seconds", "570", "--parts", ",".join(EXPECTED)]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert path.exists(), done.stderr
    return msgspec.json.decode(path.read_bytes(), type=Record), done.stdout, done.returncode


def test_nothing_fails(measured: tuple[Record, str, int]) -> None:
    record, _, status = measured
    assert [line.failed for line in record.lines if line.failed] == []
    assert status == 0


@pytest.mark.parametrize("part", EXPECTED)
def test_every_part_finds_what_it_is_for(part: str, measured: tuple[Record, str, int]) -> None:
    found = rows(line for line in measured[0].lines if line.part == part)
    for start in EXPECTED[part]:
        of_it = [row for row in found if row.what.startswith(start)]
        assert of_it, f"no row {start!r} among {[row.what for row in found]}"
        assert all(row.figure > 0 for row in of_it)


def test_the_table_shows_every_row(measured: tuple[Record, str, int]) -> None:
    record, text, _ = measured
    for row in rows(record.lines):
        assert any(row.what in line and row.size in line for line in text.splitlines())


def test_a_decode_step_is_told_beside_its_floor(measured: tuple[Record, str, int]) -> None:
    steps = [row for row in rows(measured[0].lines) if row.what == "less tiny, bf16, decode"]
    assert len(steps) == 2
    for row in steps:
        assert row.share is not None and row.limit == "memory" and "host" in row.note


def test_parts_are_named_as_in_the_help() -> None:
    assert set(EXPECTED) | {"http", "peer"} == {part.name for part in PARTS}
