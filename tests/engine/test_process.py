"""The engine process, spoken to over its socket: order, honesty about failures, and its end."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pagemill.engine import wire
from pagemill.engine.spawn import EngineProcess, cpu_seconds
from pagemill.types import EnginePlan
from tests.engine import fake_engine
from tests.engine.fake_engine import PLAN, order, plan_of

ENTRY = "tests.engine.fake_engine"


class Talk:
    """Our end of the socket, blocking."""

    def __init__(self) -> None:
        self.process = EngineProcess(ENTRY)
        self.door = self.process.door
        self.door.settimeout(10)
        self.reader = wire.FrameReader()
        self.reports: list[wire.Report] = []

    def send(self, *orders: wire.Order) -> None:
        self.door.sendall(b"".join(map(wire.encode, orders)))

    def next(self) -> wire.Report | None:
        """The next report; None when the process has closed the door."""
        while not self.reports:
            data = self.door.recv(1 << 16)
            if not data:
                return None
            self.reports += map(wire.decode_report, self.reader.feed(data))
        return self.reports.pop(0)

    def start(self, plan: EnginePlan = PLAN) -> wire.Report | None:
        self.send(wire.Start(plan))
        return self.next()

    def wait(self) -> str:
        wait_for(self.process.ended)
        return self.process.how_it_ended()


def wait_for(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.005)


@pytest.fixture
def talk() -> Iterator[Talk]:
    talking = Talk()
    yield talking
    talking.process.discard()


def test_requests_in_one_frame_a_step(talk: Talk) -> None:
    ready = talk.start()
    assert isinstance(ready, wire.Ready)
    assert ready.info.pid == talk.process.pid
    assert cpu_seconds(talk.process.pid) is not None or sys.platform != "linux"
    talk.send(wire.Add(order("1", 2, first=10)), wire.Add(order("2", 1, first=20)))
    first, second = talk.next(), talk.next()
    assert isinstance(first, wire.Progress)
    assert (first.handles, first.ids) == ([1], [10])
    assert [(c.handle, c.token_ids, c.finish) for c in first.changes] == [(2, (20,), "length")]
    assert isinstance(second, wire.Progress)
    assert [(c.handle, c.token_ids, c.finish) for c in second.changes] == [(1, (11,), "length")]
    assert second.stats is not None, "the last step before a rest brings the counters"
    assert second.stats.running == 0


def test_abort_ask_and_refusal(talk: Talk) -> None:
    talk.start(plan_of("fake:0.01"))
    talk.send(wire.Add(order("1", 100_000)), wire.Add(order("2", mischief=fake_engine.REFUSE)))
    reports = [talk.next() for _ in range(3)]
    assert wire.Refused(2, "InvalidRequest", "refused", "prompt") in reports
    talk.send(wire.Abort(1), wire.Abort(1), wire.Abort(77), wire.Ask())
    finals = 0
    counted = None
    while not (finals and counted):
        report = talk.next()
        if isinstance(report, wire.Progress):
            finals += sum(change.finish == "abort" for change in report.changes)
        elif isinstance(report, wire.Counted):
            counted = report
    assert finals == 1
    assert counted.stats.finished_abort == 3


def test_a_rest_is_for_preparing(talk: Talk) -> None:
    talk.start()

    def prepared() -> int:
        talk.send(wire.Ask())
        counted = talk.next()
        assert isinstance(counted, wire.Counted)
        return counted.stats.memory_bytes

    wait_for(lambda: prepared() == fake_engine.NUM_PREPARED)
    assert prepared() == fake_engine.NUM_PREPARED, "it is at rest, and answers"


def test_orders_do_not_wait_for_what_is_being_prepared(talk: Talk) -> None:
    talk.start(plan_of("never ready"))
    talk.send(wire.Add(order("1", 1)))
    done = talk.next()
    assert isinstance(done, wire.Progress)
    assert [change.handle for change in done.changes] == [1]
    talk.door.close()
    talk.wait()


def test_a_bad_model_is_told_and_the_process_ends(talk: Talk) -> None:
    assert talk.start(plan_of("bad")) == wire.Failed("BadModelFile", "bad: it is no model")
    assert talk.next() is None
    assert talk.wait() == "exit status 1"


def test_other_failures_do_not_tell_internals(talk: Talk) -> None:
    failed = talk.start(plan_of("broken"))
    assert failed == wire.Failed("EngineFailure", "loading failed: RuntimeError")


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        b"\x04\0\0\0abcd",
        b"\0\0\0\0",
        wire.encode(wire.Ask()),
        random.Random(3).randbytes(1000),
    ],
)
def test_garbage_ends_the_process_cleanly(talk: Talk, sent: bytes) -> None:
    talk.door.sendall(sent)
    assert talk.next() is None
    assert talk.wait() == "exit status 1"


def test_garbage_later_ends_it_too(talk: Talk) -> None:
    talk.start()
    talk.send(wire.Start(PLAN))
    assert talk.next() is None
    assert talk.wait() == "exit status 1"


@pytest.mark.parametrize("plan", ["fake", "slow to load"])
def test_a_closed_door_ends_it_in_every_phase(plan: str) -> None:
    talk = Talk()
    talk.send(wire.Start(plan_of(plan)))
    if plan == "fake":
        assert isinstance(talk.next(), wire.Ready)
        talk.send(wire.Add(order("1", 100_000, fake_engine.SPIN, 60_000)))
    time.sleep(0.3)
    talk.door.close()
    assert talk.wait() == "exit status 0"


def test_signals_to_the_group_do_not_end_it(talk: Talk) -> None:
    talk.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(talk.process.pid, number)
    talk.send(wire.Ask())
    assert isinstance(talk.next(), wire.Counted)


def test_killing_a_stopped_process(talk: Talk) -> None:
    talk.start()
    os.kill(talk.process.pid, signal.SIGSTOP)
    talk.process.kill()
    assert talk.wait() == "signal 9 (Killed)"


PARENT = """
import sys, time
from pagemill.engine import wire
from pagemill.engine.spawn import EngineProcess
from tests.engine.fake_engine import plan_of
process = EngineProcess("tests.engine.fake_engine")
process.door.sendall(wire.encode(wire.Start(plan_of("fake"))))
process.door.recv(1)
print(process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a stopped child dies with its parent on Linux")
@pytest.mark.parametrize("stopped", [False, True])
def test_it_does_not_outlive_a_killed_parent(stopped: bool) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        handle = os.pidfd_open(pid)
        parent.kill()
    try:
        assert select.select([handle], [], [], 5)[0], "the child is still there"
    finally:
        os.close(handle)
