"""A server of ours, started for a measurement and stopped after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import perf_counter

import httpx

from pagemill.errors import EngineFailure

START_S = 600.0
STOP_S = 20.0
POLL_S = 0.005  # what a start is measured to
_LISTENS = re.compile(r"Pagemill serves at (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A running one. Times are those of `perf_counter`."""

    url: str
    pid: int
    started: float
    listening: float


@asynccontextmanager
async def own_server(model: str, arguments: Sequence[str] = ()) -> AsyncIterator[OwnServer]:
    """`pagemill serve MODEL` on a free port of this machine; its model may be loading still.

    It has a session of its own: Ctrl-C in the terminal reaches it only through us.
    """
    command = [sys.executable, "-m", "pagemill", "serve", model, *arguments]
    command += ["--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryDirectory(prefix="pagemill-bench-") as folder:
        path = Path(folder) / "log"
        started = perf_counter()
        with path.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            url = await _url(process, path, started)
            yield OwnServer(url, process.pid, started, perf_counter())
        finally:
            await _stop(process)


async def until_ready(server: OwnServer) -> None:
    """Wait for the model to be loaded."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        while perf_counter() - server.started < START_S:
            answer = await client.get("/ready")
            if answer.status_code in (HTTPStatus.OK, HTTPStatus.UNAUTHORIZED):
                return
            await asyncio.sleep(0.05)
    raise EngineFailure(f"the server was not ready within {START_S:g} s: {answer.text[:300]}")


async def _url(process: subprocess.Popen[bytes], log: Path, started: float) -> str:
    while perf_counter() - started < START_S:
        text = log.read_text("utf-8", "replace")
        if match := _LISTENS.search(text):
            return match[1]
        if process.poll() is not None:
            last = text.strip().splitlines()[-1:] or ["without a word"]
            raise EngineFailure(f"pagemill serve ended with {process.returncode}: {last[0]}")
        await asyncio.sleep(POLL_S)
    raise EngineFailure(f"pagemill serve did not listen within {START_S:g} s")


async def _stop(process: subprocess.Popen[bytes]) -> None:
    """In order if it can; what is left of it after a while is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.to_thread(process.wait, STOP_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
