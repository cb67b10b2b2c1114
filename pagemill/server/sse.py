"""Sends a generation as server-sent events, at the reader's pace and within bounds.

The engine never waits for a reader: while one is slow, what its choices say coalesces into the
next chunk. A reader with too much pending, or that takes nothing for too long, is given up; one
that has gone ends its requests at once. Knows no dialect: a `Chunks` renders.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pagemill.errors import PagemillError
from pagemill.server.generation import Generation

PING = b": ping\n\n"  # a comment: proxies see traffic, clients skip it
ABORT_EXTENSION = "pagemill.abort_connection"

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


Result = TypeVar("Result")


class ClientGone(Exception):
    """The client closed the connection, or was given up: nobody is left to answer."""


class Chunks(Protocol):
    """A dialect's rendering of a generation."""

    def take(self) -> bytes: ...
    def tail(self) -> bytes: ...
    def error(self, error: PagemillError) -> bytes: ...


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one reader may cost."""

    max_pending_bytes: int = 256 * 1024
    write_timeout_s: float = 60.0  # taking nothing for that long
    ping_s: float = 15.0  # silence before a comment is sent
    tick_s: float = 1.0


async def disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(receive: Receive, work: Awaitable[Result]) -> Result:
    """Wait for `work`; a client that goes away cancels it. Raises ClientGone then."""
    worker = asyncio.ensure_future(work)
    listener = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({worker, listener}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientGone
        return worker.result()
    finally:
        await _end(listener, worker)


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """The response of a streaming call. Raises the generation's error if nothing was sent yet."""

    def __init__(self, generation: Generation, chunks: Chunks, limits: StreamLimits) -> None:
        super().__init__(media_type="text/event-stream")
        self._generation = generation
        self._chunks = chunks
        self._limits = limits
        self._waiter: asyncio.Future[None] | None = None
        self._opened = False
        self._last_send = 0.0
        self._sending = False
        self._ping = False
        self._give_up: Callable[[], object] = _nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the end of all choices, of the client, or of patience."""
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self._write(send))
        listener = loop.create_task(disconnected(receive))
        self._give_up = writer.cancel
        self._last_send = monotonic()
        self._ticker = loop.call_later(self._limits.tick_s, self._tick, loop)
        self._generation.start(self._wake)
        try:
            await asyncio.wait({writer, listener}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():
                raise ClientGone
            if writer.cancelled():
                abort = scope.get("extensions", {}).get(ABORT_EXTENSION)
                if abort is not None:
                    abort()
                raise ClientGone
            writer.result()
        finally:
            self._ticker.cancel()
            await _end(listener, writer)
            await self._generation.close()

    def _wake(self) -> None:
        """Something is pending. Runs once per engine step and choice."""
        waiter = self._waiter
        if waiter is not None:
            if not waiter.done():
                waiter.set_result(None)
        elif self._sending and self._generation.pending_bytes > self._limits.max_pending_bytes:
            self._give_up()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        quiet = monotonic() - self._last_send
        if self._sending:
            if quiet > self._limits.write_timeout_s:
                self._give_up()
        elif quiet > self._limits.ping_s:
            self._ping = True
            self._wake()
        self._ticker = loop.call_later(self._limits.tick_s, self._tick, loop)

    async def _write(self, send: Send) -> None:
        generation, take = self._generation, self._chunks.take
        loop = asyncio.get_running_loop()
        while True:
            data = take()
            if data:
                await self._send(send, data, True)
            elif generation.done:
                break
            elif self._ping:
                self._ping = False
                await self._send(send, PING, True)
            else:
                self._waiter = loop.create_future()
                await self._waiter
                self._waiter = None
        error = generation.error
        if error is not None and not self._opened:
            raise error
        tail = self._chunks.tail() if error is None else self._chunks.error(error)
        await self._send(send, tail, False)

    async def _send(self, send: Send, data: bytes, more: bool) -> None:
        self._last_send = monotonic()
        self._sending = True
        if not self._opened:
            self._opened = True
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": data, "more_body": more})
        self._sending = False


def _nothing() -> None:
    """Before the writer runs there is nobody to give up."""
