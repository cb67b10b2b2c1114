"""Reports of starts, memory of processes, and what a report keeps to itself."""

import os
import subprocess
import sys

import pytest

from pagemill.bench import startup
from pagemill.bench.document import Table
from pagemill.bench.facts import Facts, without_secrets
from pagemill.bench.processes import Memory, memory
from pagemill.bench.startup import Start

FACTS = Facts(
    "pagemill bench startup m", "2026-01-01", "0.1.0", "3.11", "Linux", "A CPU", 2, 1 << 30
)


def test_the_report_ends_with_medians() -> None:
    memory_then = Memory(2, 300 << 20, 200 << 20)
    starts = [Start(0.5, first, 0.02, memory_then) for first in (1.0, 4.0, 2.0)]
    made = startup.record(FACTS, "m", starts, interrupted=False)
    assert made.median_first_token == 2.0
    table = startup.report(made).parts[0]
    assert isinstance(table, Table)
    assert list(table.rows[1]) == ["2", "0.50", "3.50", "4.00", "20.0", "2", "200", "300"]
    assert list(table.rows[3]) == ["median", "0.50", "1.50", "2.00", "20.0", "2", "200", "300"]


def test_memory_may_be_unknown() -> None:
    made = startup.record(FACTS, "m", [Start(0.5, 1, 0.02, None)], interrupted=True)
    table = startup.report(made).parts[0]
    assert isinstance(table, Table) and list(table.rows[0])[-3:] == ["-", "-", "-"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_of_all_below_a_process() -> None:
    below = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", below], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        measured = memory(process.pid)
        process.stdin.close()
    assert measured is not None and measured.processes == 2
    assert 1 << 20 < measured.proportional <= measured.resident
    assert memory(process.pid) is None
    assert memory(os.getpid()) is not None


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("bench --api-key secret x", "bench --api-key *** x"),
        ("bench --api-key=secret", "bench --api-key=***"),
        ("bench --serve-args '--api-key secret'", "bench --serve-args '--api-key ***'"),
        ("bench http://me:pass@h:1/v1", "bench http://***@h:1/v1"),
        ("bench http://h:1/a@b", "bench http://h:1/a@b"),
    ],
)
def test_reports_tell_no_secrets(command: str, shown: str) -> None:
    assert without_secrets(command) == shown
