"""What ranks do to each other: they answer together, fail together, and leave nothing behind."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pagemill.engine.client import Patience, ProcessClient
from pagemill.engine.spawn import EngineProcess
from pagemill.errors import EngineFailure, Unsupported
from pagemill.types import Delta, EnginePlan, Request, SamplingParams
from tests.models.test_golden import HERE, Golden
from tests.parallel.ranks import plan_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

LLAMA = HERE / "llama"
LONG = 200
PATIENT = Patience(stuck_s=60.0)  # two cores may be busy with more than this
_LISTENING = "0A"  # in /proc/net/tcp


def client_of(
    plan: EnginePlan, entry: str = "pagemill.worker", patience: Patience | None = None
) -> ProcessClient:
    return ProcessClient(plan, lambda: EngineProcess(entry), patience=patience or PATIENT)


def golden_request(name: str = "a") -> tuple[Request, list[int]]:
    prompt, _, expected = Golden(LLAMA, LLAMA / "golden.npz").expected()[0]
    greedy = SamplingParams(temperature=0)
    return Request(name, tuple(prompt.tolist()), len(expected), greedy), expected.tolist()


async def answer(client: ProcessClient, request: Request) -> tuple[list[int], Delta]:
    deltas = [delta async for delta in client.generate(request)]
    return [token for delta in deltas for token in delta.token_ids], deltas[-1]


async def check_answer(client: ProcessClient) -> None:
    request, expected = golden_request()
    tokens, _ = await answer(client, request)
    assert tokens == expected


def children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in found.split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        await asyncio.sleep(0.02)


def listening(pid: int) -> set[str]:
    """Addresses, in hexadecimal, on which a process listens."""
    sockets = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(file)
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in sockets:
                addresses.add(fields[1].partition(":")[0])
    return addresses


async def test_a_rank_dies_then_rank_0_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    client = client_of(plan_of(LLAMA, 2))
    info = await client.ready()
    assert info.backend == "reference (2 ranks)"
    await check_answer(client)
    (rank,) = children(info.pid)
    for pid in (info.pid, rank):
        assert listening(pid) <= {"0100007F"}, "127.0.0.1 only"
    assert not list(tmp_path.iterdir())

    stream = client.generate(replace(golden_request("long")[0], max_tokens=LONG))
    await anext(stream)
    os.kill(rank, signal.SIGKILL)
    (*_, last) = [delta async for delta in stream]
    assert last.finish == "error"
    assert last.error == (
        "the engine stopped (rank 1 of 2 died: signal 9 (Killed)) and is being restarted"
    )
    await until(lambda: not alive(info.pid))

    await until(lambda: client.state == "ready")
    again = client.info
    assert again is not None and again.pid != info.pid
    await check_answer(client)
    (rank,) = children(again.pid)
    os.kill(again.pid, signal.SIGKILL)
    await until(lambda: not alive(rank))
    await client.close()
    assert not list(tmp_path.iterdir())


async def test_an_idle_rank_that_dies_is_missed_at_once() -> None:
    client = client_of(plan_of(LLAMA, 1, 2))
    info = await client.ready()
    (rank,) = children(info.pid)
    os.kill(rank, signal.SIGKILL)
    await until(lambda: client.state == "restarting")
    assert "rank 1 of 2 died: signal 9 (Killed)" in client.reason
    await client.close()
    await until(lambda: not alive(info.pid))


async def test_a_step_that_raises_in_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEMILL_TEST_FAULT", "step")
    client = client_of(plan_of(LLAMA, 2), "tests.parallel.faulty_worker")
    info = await client.ready()
    ranks = children(info.pid)
    tokens, last = await answer(client, golden_request()[0])
    assert len(tokens) == 2
    assert last.error == (
        "the engine stopped (rank 1 of 2 failed: ValueError) and is being restarted"
    )
    await until(lambda: not any(alive(pid) for pid in (info.pid, *ranks)))
    await client.close()


async def test_a_rank_that_cannot_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PAGEMILL_TEST_FAULT", "load")
    client = client_of(plan_of(LLAMA, 2), "tests.parallel.faulty_worker")
    with pytest.raises(EngineFailure, match="rank 1 of 2 failed: RuntimeError"):
        await client.ready()
    await client.close()
    assert not list(tmp_path.iterdir())


async def test_a_rank_that_hangs_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEMILL_TEST_FAULT", "hang")
    engine = EngineProcess("tests.parallel.faulty_worker")
    patience = Patience(load_s=15, heartbeat_s=0.2)
    client = ProcessClient(plan_of(LLAMA, 2), lambda: engine, process=engine, patience=patience)
    loading = asyncio.ensure_future(client.ready())
    ranks: set[int] = set()
    while not loading.done():
        ranks |= set(children(engine.pid))
        await asyncio.sleep(0.05)
    with pytest.raises(EngineFailure, match="loading took longer than 15 seconds"):
        await loading
    assert ranks
    await until(lambda: not any(alive(pid) for pid in (engine.pid, *ranks)))
    await client.close()


async def test_a_tensor_that_does_not_divide_is_named() -> None:
    """Quantized while it loads, so only ranks can tell."""
    client = client_of(replace(plan_of(LLAMA, 2), quantization="int8"))
    words = "tensor blk.0.attn_output: its 32 inputs are 1 Q8_0 blocks of 32, which 2 ranks cannot"
    with pytest.raises(Unsupported, match=words):
        await client.ready()
    await client.close()
