"""A real `pagemill serve` and clients that speak HTTP by hand.

`Serving` is the process: start, look at its tree, signal, stop. `Stream` is one streaming call on a
socket of its own, which can be dropped, reset or read slowly. Linux only: it reads /proc.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pagemill

PACKAGES = Path(pagemill.__file__).parent.parent  # so that the server is the code under test
START_S = 30.0
PATIENCE_S = 60.0  # no single answer takes so long, even on a busy machine
MARK = "PAGEMILL_TEST_MARK"
Body = Mapping[str, Any]


class Serving:
    """A server process; use it as a context."""

    def __init__(self, folder: Path, *arguments: str | Path, ready: bool = True) -> None:
        """Start `pagemill serve *arguments` on a free port; `folder` takes its store and log."""
        self._mark = secrets.token_hex(8)
        self._log = folder / f"{self._mark}.log"
        env = {name: value for name, value in os.environ.items() if "PAGEMILL" not in name}
        env |= {"PAGEMILL_HOME": str(folder), "PYTHONPATH": str(PACKAGES), MARK: self._mark}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pagemill", "serve", *map(str, arguments), "--port", "0"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.port = 0
        self.sockets: list[socket.socket] = []  # of its clients
        if ready:
            try:
                self._wait_until_ready()
            except BaseException:
                self.end()
                raise

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text("utf-8", "replace")

    def drop_clients(self) -> None:
        """Hang up whatever a test that failed left open."""
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.sockets.clear()

    def end(self) -> None:
        """Kill what is left of it."""
        self.process.kill()
        self.process.wait()
        for pid in self.tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def exit_code(self, seconds: float) -> int:
        """Wait for its end; fails with its log."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s; log:\n{self.log}") from None

    def tree(self) -> list[int]:
        """Pids of all that it started, itself included, whoever their parent is now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return sorted(found)

    def engines(self) -> list[int]:
        """Pids of its engine processes. A child that still bears the server's own command is none
        yet: the server waits for it to become one, so it must not be stopped."""
        own = _command(self.pid)
        return [pid for pid in self.tree() if pid != self.pid and _command(pid) != own]

    def engine(self) -> int:
        """The pid of its only engine."""
        (pid,) = self.engines()
        return pid

    def get(self, path: str, key: str = "") -> tuple[int, str]:
        """Status and body of a GET."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(name)]
        values = [line.rsplit(" ", 1) for line in lines if line[len(name)] in "{ "]
        assert values, f"/metrics has no {name}"
        return sum(float(value) for _, value in values)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            first = self.log.partition("\n")[0]
            if not self.port and "http://127.0.0.1:" in first:
                self.port = int(first.split("http://127.0.0.1:")[1].split()[0])
            with contextlib.suppress(OSError):
                if self.port and self.get("/ready")[0] in (200, 401):
                    return
            time.sleep(0.02)
        raise AssertionError(f"the server did not become ready; its log:\n{self.log}")


class Stream:
    """One streaming call. Everything that comes is kept in `data`, decoded as text pieces."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self.error: dict[str, Any] | None = None  # of an error record or a refusal
        self.finish: str | None = None
        self.ended = 0  # how many [DONE] came
        self.arrivals: list[float] = []
        self._writer = writer

    @classmethod
    async def open(
        cls, server: Serving, body: Body, *, path: str = "/v1/completions", window: int = 0
    ) -> "Stream":
        """Connect and ask; does not wait for an answer. `window`: a small receive buffer."""
        sock = socket.socket()
        server.sockets.append(sock)
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=window or 1 << 20)
        raw = json.dumps({"stream": True, **body}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)
        return cls(reader, writer)

    async def begin(self) -> "Stream":
        """Wait for the head and the first event."""
        return await self._within(self._begin())

    async def rest(self) -> "Stream":
        """Wait for the end."""
        return await self._within(self._rest())

    def drop(self, *, reset: bool = False) -> None:
        """Go away in the middle, as a program that closes or, `reset`, as one that is killed."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def _within(self, work: Any) -> "Stream":
        await asyncio.wait_for(work, PATIENCE_S)
        return self

    async def _begin(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split(" ")[1])
        for line in head[1:-2]:
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = value
        if self.status != 200:
            raw = await self.reader.readexactly(int(self.headers["content-length"]))
            self.error = json.loads(raw)["error"]
            return
        while not self.arrivals and await self._event():
            pass

    async def _rest(self) -> None:
        if not self.status:
            await self._begin()
        if self.status == 200:
            while await self._event():
                pass
        self._writer.close()

    async def _event(self) -> bool:
        """Take one line in. Lines of the chunked coding and comments carry no event."""
        line = await self.reader.readline()
        if line.startswith(b"data: [DONE]"):
            self.ended += 1
        elif line.startswith(b"data: "):
            self.arrivals.append(time.monotonic())
            self._take(json.loads(line[6:]))
        return bool(line)

    def _take(self, record: Any) -> None:
        if "error" in record:
            self.error = record["error"]
            return
        for choice in record["choices"]:
            self.text += choice["text"]
            self.finish = choice["finish_reason"] or self.finish


def _command(pid: int) -> bytes:
    """The command line of a process; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def answers(server: Serving, bodies: Sequence[Body]) -> list[Stream]:
    """All of them at once, to their ends."""
    streams = [await Stream.open(server, body) for body in bodies]
    return list(await asyncio.gather(*(stream.rest() for stream in streams)))


async def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> float:
    """Wait until `condition` holds, off the loop; returns how long that took."""
    started = time.monotonic()
    while not await asyncio.to_thread(condition):
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def nothing_held(server: Serving, seconds: float = 10.0) -> float:
    """Wait until the engine runs nothing and no page is used."""
    gauges = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    return await until(
        lambda: not any(server.metric(name) for name in gauges), f"{gauges} are 0", seconds
    )
