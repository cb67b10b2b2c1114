"""Kernels against limits: every kernel is reached, and the sums are right."""

from dataclasses import replace

import pytest

from pagemill import _native
from pagemill.bench import kernels
from pagemill.bench.document import Table
from pagemill.bench.facts import Facts
from pagemill.bench.kernels import Limits, Timed
from pagemill.errors import InvalidRequest
from pagemill.ops.cpu import CpuOps
from tests.bench.test_run import Counting

FACTS = Facts("pagemill bench ops", "2026-01-01", "0.1.0", "3.11", "Linux", "A CPU", 2, 8 << 30)


@pytest.mark.parametrize("isa", _native.instruction_sets())
def test_limits_of_every_instruction_set(isa: str) -> None:
    read, int8, fp32, bf16 = _native.limits(CpuOps(2, isa).native, 4 << 20)
    assert read > 1e8 and int8 > 1e8 and fp32 > 1e8
    assert (bf16 > 1e8) == isa.endswith("bf16")


def test_the_nearer_limit_is_the_one_that_takes_longer() -> None:
    limits = Limits(read_bytes=10.0, int8_ops=100.0, fp32_ops=50.0)
    assert Timed("k", "", 1, bytes=20, ops=100, arithmetic="int8").bound(limits) == (2, "memory")
    assert Timed("k", "", 1, bytes=20, ops=400, arithmetic="int8").bound(limits) == (4, "int8")
    assert Timed("k", "", 1, bytes=20, ops=400, arithmetic="fp32").bound(limits) == (8, "fp32")
    twice = replace(limits, bf16_ops=100.0)
    assert Timed("k", "", 1, bytes=20, ops=400, arithmetic="bf16").bound(twice) == (4, "bf16")


def test_every_kernel_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"WIDTH": 256, "SET_BYTES": 1 << 20, "LONG_ENOUGH_S": 0.0, "DECODES": ((2, 40),)}
    small |= {"PREFILLS": (20,), "NORM_ROWS": 64}
    for name, value in small.items():
        monkeypatch.setattr(kernels, name, value)
    ops, limits, watch = CpuOps(2), [], Counting()
    names = kernels.known_formats("")
    found = list(kernels.kernels(ops, names, [1, 8], limits, watch))
    assert len(limits) == len(names) + 1 and watch.ended == len(names) + 3
    assert [timed.kernel for timed in found] == [
        *(f"product {name}" for name in names for _ in (1, 8)),
        *("attention, decode", "attention, prefill", "rms_norm", "layer_norm"),
    ]
    by_size = {(timed.kernel, timed.size): timed for timed in found}
    one = by_size["product Q8_0", "1 row"]
    assert one.ops == 2 * 256 * 256 and one.arithmetic == "int8"
    assert 256 * 256 < one.bytes < 1.25 * 256 * 256  # a byte each, and scales
    assert by_size["product F32", "8 rows"].arithmetic == "fp32"
    decode = by_size["attention, decode", "2 x 40 tokens"]
    assert decode.bytes == 2 * 40 * 2 * 8 * 64 * 2 and decode.ops == 4 * 2 * 40 * 32 * 64
    prefill = by_size["attention, prefill", "20 tokens"]
    assert prefill.ops == 4 * (20 * 21 / 2) * 32 * 64
    assert all(timed.seconds > 0 for timed in found if "norm" not in timed.kernel)


def test_the_report() -> None:
    limits = [Limits(1e9, 4e9, 2e9), Limits(2e9, 3e9, 1e9)]
    found = [Timed("product Q8_0", "1 row", 0.5, 5e8, 1e8, "int8")]
    made = kernels.record(FACTS, CpuOps(1), limits, found, interrupted=False)
    document = kernels.report(made)
    machine, measured = document.parts[:2]
    assert isinstance(machine, Table) and isinstance(measured, Table)
    assert [row[0] for row in machine.rows] == ["first", "last", "best"]
    assert list(machine.rows[2][1:]) == ["2.00", "4.00", "2.00"]
    assert list(measured.rows[0]) == [
        *("product Q8_0", "1 row", "500", "1.00", "0.20", "50", "memory")
    ]


def test_what_may_be_asked_for() -> None:
    assert kernels.known_formats("q8_0, f32") == ["Q8_0", "F32"]
    with pytest.raises(InvalidRequest, match=r"--formats must be of .*Q8_0.*, not 'Q9'"):
        kernels.known_formats("q9")
    assert kernels.row_counts("1, 50") == [1, 50]
    for text in ("", "0", "a", "5000", "1,,2"):
        with pytest.raises(InvalidRequest, match="--rows must be"):
            kernels.row_counts(text)


@pytest.mark.parametrize("num_pages", [1, 64, 65, 200])
def test_a_cache_is_written_before_it_is_read(num_pages: int) -> None:
    written = [slot for step in kernels.writing(num_pages) for slot in step.slots.tolist()]
    assert written == list(range(num_pages * kernels.PAGE))
    for step in kernels.writing(num_pages):
        pages = step.page_table[:, 0]
        assert (step.slots.reshape(-1, kernels.PAGE)[:, 0] == pages * kernels.PAGE).all()
