"""The door to an engine in a process of its own, and the supervisor behind it.

`ProcessClient` sends requests and hands each its Deltas; it starts the process, notices that it
died or is stuck, ends its requests with a clear error and starts it again, with growing pauses.
After several crashes in a short time it stays down and says why. One callback on the event loop
takes a whole step's Deltas.

Must not know: what the process runs, HTTP, text.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

from pagemill import errors
from pagemill.engine import wire
from pagemill.engine.spawn import EngineProcess, cpu_seconds
from pagemill.engine.streams import Stream, Streams
from pagemill.errors import EngineFailure, PagemillError, Unavailable
from pagemill.types import Delta, EngineInfo, EnginePlan, EngineStats, Request

State = Literal["loading", "ready", "restarting", "failed", "draining", "closed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the supervisor waits for what. Seconds, but for `crashes`."""

    load_s: float = 600.0  # a model from a slow disk
    heartbeat_s: float = 1.0
    stuck_s: float = 10.0  # silent, and not even computing
    step_s: float = 300.0  # silent, but computing: a long step on a slow machine
    wait_s: float = 10.0  # a request, for an engine that is being restarted
    pause_s: float = 0.1  # before the second restart in a row; grows fourfold, up to `most_pause_s`
    most_pause_s: float = 5.0
    crashes: int = 5  # so many within `window_s`: stay down
    window_s: float = 60.0
    leave_s: float = 1.0  # an engine that was told to go, until it is killed
    stats_s: float = 1.0  # for counters, until the last known are good enough


class _Link(asyncio.Protocol):
    """The connection to one engine process; it ends when the process does."""

    def __init__(self, on_report: Callable[[wire.Report], None]) -> None:
        self._on_report = on_report
        self._reader = wire.FrameReader()
        self._transport: asyncio.Transport | None = None
        self.loaded = False
        self.heard = False  # something came since this was last set to False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.trouble = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            for frame in self._reader.feed(data):
                self._on_report(wire.decode_report(frame))
        except wire.FrameError as error:
            self.trouble = error.message
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, order: wire.Order) -> None:
        assert self._transport is not None
        self._transport.write(wire.encode(order))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class ProcessClient:
    """`EngineClient` for an engine in a child process. Use it on one event loop."""

    def __init__(
        self,
        plan: EnginePlan,
        spawn: Callable[[], EngineProcess],
        *,
        process: EngineProcess | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`spawn` starts a process; `process` is one that was started already and waits for us.

        Nothing happens before `begin`, `ready` or the first request.
        """
        self.plan = plan
        self.info: EngineInfo | None = None
        self.state: State = "loading"
        self.reason = ""  # why it is not ready, in words
        self._spawn = spawn
        self._process = process  # the next to be used
        self._told = False  # `_process` knows what to load
        self._patience = patience or Patience()
        self._streams = Streams(plan)
        self._link: _Link | None = None
        self._stats = EngineStats()
        self._stats_waiters: list[asyncio.Future[None]] = []
        self._crashes: deque[float] = deque(maxlen=self._patience.crashes)
        self._failure: PagemillError | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._closing = False
        self._wake_up: asyncio.Event | None = None
        self._supervisor: asyncio.Task[None] | None = None

    # What callers do.

    def begin(self) -> None:
        """Start the process and tell it what to load, without waiting. Needs no event loop yet."""
        if self._supervisor is None and not self._told:
            self._process = self._process or self._spawn()
            with contextlib.suppress(OSError):  # dead already: `ready` will say how
                self._process.door.sendall(wire.encode(self._start_order()))
            self._told = True

    async def ready(self) -> EngineInfo:
        """Start if need be, and wait until the model is loaded. Raises what prevented it."""
        self._start()
        assert self._loaded is not None
        await asyncio.wait({self._loaded})
        if self.state == "failed" and self._failure is not None:
            raise self._failure
        if self.info is None:
            raise Unavailable("the engine was closed while it was loading")
        return self.info

    def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Run one request. See `types.EngineClient`."""
        return self._streams.read(request, self._enter, self._leave)

    async def abort(self, request_id: str) -> None:
        """End a request now; no error if there is none of that id."""
        stream = self._streams.find(request_id)
        if stream is None:
            return
        if stream.sent:
            self._send_abort(stream)
        else:
            self._streams.end(stream, Delta(request_id, finish="abort"))

    async def stats(self) -> EngineStats:
        """Counters, not older than a step unless that is a long one. Unavailable when down."""
        link = self._link
        if self.state not in ("ready", "draining") or link is None:
            raise self._unavailable()
        waiter = asyncio.get_running_loop().create_future()
        self._stats_waiters.append(waiter)
        link.send(wire.Ask())
        await asyncio.wait({waiter}, timeout=self._patience.stats_s)
        if self._link is not link:
            raise self._unavailable()
        return self._stats

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests and let the others finish. False if some had not, by then."""
        if self.state in ("loading", "ready", "restarting"):
            self.state, self.reason = "draining", "the server is shutting down"
        return await self._streams.drained(seconds)

    async def close(self) -> None:
        """End all requests and the process. Idempotent."""
        self._closing = True
        self.state, self.reason = "closed", "the engine has been stopped"
        for stream in self._streams.all():
            self._streams.end(stream, Delta(stream.request.id, finish="abort"))
        if self._supervisor is None:
            if self._process is not None:
                self._process.discard()
                self._process = None
            return
        if self._link is not None:
            self._link.close()
        assert self._wake_up is not None
        self._wake_up.set()
        await asyncio.wait({self._supervisor})

    # Requests on their way.

    def _enter(self, request: Request) -> Stream:
        if self.state in ("failed", "draining", "closed"):
            raise self._unavailable()
        self._start()
        stream = self._streams.open(request)
        if self.state == "ready":
            self._submit(stream)
        else:
            asyncio.get_running_loop().call_later(self._patience.wait_s, self._give_up, stream)
        return stream

    def _submit(self, stream: Stream) -> None:
        assert self._link is not None
        stream.sent = True
        self._link.send(wire.Add(replace(stream.request, id=str(stream.handle))))

    def _leave(self, stream: Stream) -> None:
        if stream.sent:
            self._send_abort(stream)

    def _send_abort(self, stream: Stream) -> None:
        if self._link is not None:
            self._link.send(wire.Abort(stream.handle))

    def _give_up(self, stream: Stream) -> None:
        if not stream.sent:
            self._streams.refuse(stream.handle, self._unavailable())

    def _unavailable(self) -> Unavailable:
        words = self.reason or f"the engine is {self.state}"
        retry_after = 30 if self.state in ("failed", "draining", "closed") else 2
        return Unavailable(words, retry_after=retry_after)

    def _on_report(self, report: wire.Report) -> None:
        match report:
            case wire.Progress(handles, ids, changes, stats):
                streams = self._streams
                for handle, token in zip(handles, ids, strict=True):
                    streams.token(handle, token)
                for change in changes:
                    streams.deliver(change.handle, change.delta)
                if stats is not None:
                    self._stats = stats
            case wire.Counted(stats):
                self._stats = stats
                for waiter in self._stats_waiters:
                    if not waiter.done():
                        waiter.set_result(None)
                self._stats_waiters.clear()
            case wire.Refused(handle, kind, message, param):
                self._streams.refuse(handle, _error(kind, message, param))
            case wire.Ready(info):
                self._on_ready(info)
            case wire.Failed(kind, message, param):
                self._failure = _error(kind, message, param)

    def _on_ready(self, info: EngineInfo) -> None:
        assert self._link is not None
        self._link.loaded = True
        self.info = info
        # What fits on a device is known when the engine has measured it.
        fits = replace(self.plan, num_pages=info.num_pages, kv_bytes=info.kv_bytes)
        self.plan = replace(fits, max_model_len=info.max_model_len)
        if self.state in ("loading", "restarting"):
            self.state, self.reason = "ready", ""
        assert self._loaded is not None
        if not self._loaded.done():
            self._loaded.set_result(None)
        for stream in self._streams.all():
            if not stream.sent:
                self._submit(stream)

    # The supervisor.

    def _start(self) -> None:
        if self._supervisor is None and not self._closing:
            loop = asyncio.get_running_loop()
            self._loaded = loop.create_future()
            self._wake_up = asyncio.Event()
            self._supervisor = loop.create_task(self._supervise(), name="engine supervisor")

    async def _supervise(self) -> None:
        """Run one process after another until closed or failed."""
        assert self._loaded is not None
        try:
            while not self._closing:
                process = self._process or self._spawn()
                self._process = None
                words = await self._live(process)
                if not self._closing:
                    await self._after_crash(words)
                if self.state == "failed":
                    break
        except OSError as error:  # no process could be started
            self._fail(EngineFailure(f"the engine could not be started: {error.strerror}"))
        finally:
            if not self._loaded.done():
                self._loaded.set_result(None)

    async def _live(self, process: EngineProcess) -> str:
        """One process from its first order to its end; says how it ended."""
        loop = asyncio.get_running_loop()
        link = _Link(self._on_report)
        self._failure = None
        words = ""
        self._link = link  # now: a process that was told early may report while we connect
        try:
            await loop.create_unix_connection(lambda: link, sock=process.door)
            if not self._closing:  # close() may have come while there was no link to close
                if not self._told:
                    link.send(self._start_order())
                self._told = False
                words = await self._watch(process, link)
        finally:
            self._link = None
            link.close()
            process.door.close()
            await self._reap(process)
        return words or process.how_it_ended()

    def _start_order(self) -> wire.Start:
        # `Streams` counts for all of us: whom it let in, the engine must not refuse.
        both = self.plan.max_queued + self.plan.max_num_seqs
        return wire.Start(replace(self.plan, max_queued=both))

    async def _watch(self, process: EngineProcess, link: _Link) -> str:
        """Wait until the process has gone, or must go; the reason, unless its exit status says it.

        Silence is counted in beats of our own loop: if that one was held up, nobody is blamed.
        """
        patience = self._patience
        pid = process.pid
        silent_s = idle_s = 0.0
        cpu_s = cpu_seconds(pid)
        while True:
            await asyncio.wait({link.lost}, timeout=patience.heartbeat_s)
            if link.lost.done():
                return link.trouble
            if link.heard:
                link.heard = False
                silent_s = idle_s = 0.0
                continue
            silent_s += patience.heartbeat_s
            before, cpu_s = cpu_s, cpu_seconds(pid)
            idle_s = idle_s + patience.heartbeat_s if before == cpu_s is not None else 0.0
            if link.loaded:
                if idle_s >= patience.stuck_s or silent_s >= patience.step_s:
                    process.kill()
                    return f"it did not answer for {silent_s:.0f} seconds"
                link.send(wire.Ask())
            elif silent_s >= patience.load_s:
                process.kill()
                return f"loading took longer than {patience.load_s:.0f} seconds"

    async def _after_crash(self, words: str) -> None:
        """End what ran; then either stay down or pause before the next start."""
        if self.info is None:
            told = EngineFailure(f"the engine stopped while it loaded the model ({words})")
            self._fail(self._failure or told)
            return
        if self._failure is not None:  # it could not load the model again
            words = self._failure.message
        _log.error("the engine stopped (%s)", words)
        patience, now = self._patience, time.monotonic()
        self._crashes.append(now)
        recent = sum(now - crash < patience.window_s for crash in self._crashes)
        if recent == patience.crashes or self.state == "draining":
            often = f"{recent} times within {patience.window_s:.0f} seconds, the last time: "
            self._fail(EngineFailure(f"the engine stopped ({often if recent > 1 else ''}{words})"))
            return
        self.state = "restarting"
        self.reason = f"the engine stopped ({words}) and is being restarted"
        self._end_sent(self.reason)
        pause_s = patience.pause_s * 4.0 ** (recent - 2) if recent > 1 else 0.0
        assert self._wake_up is not None
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake_up.wait(), min(pause_s, patience.most_pause_s))

    def _fail(self, error: PagemillError) -> None:
        """Stay down; nobody waits any longer."""
        self._failure = error
        self.state, self.reason = "failed", error.message
        self._end_sent(error.message)
        for stream in self._streams.all():
            self._streams.refuse(stream.handle, self._unavailable())

    def _end_sent(self, words: str) -> None:
        for stream in self._streams.all():
            if stream.sent:
                self._streams.end(stream, Delta(stream.request.id, finish="error", error=words))

    async def _reap(self, process: EngineProcess) -> None:
        """Wait for the end of a process whose door is closed; kill it if it will not go."""
        waited_s, pause_s = 0.0, 0.002
        while not process.ended():
            if waited_s >= self._patience.leave_s:
                process.kill()
            await asyncio.sleep(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, 0.1)


def _error(kind: str, message: str, param: str | None) -> PagemillError:
    """The error that the engine's side met, as the same class here."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, PagemillError):
        return found(message, param=param) if param else found(message)
    return EngineFailure(message)
