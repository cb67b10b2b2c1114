"""One client connection: uvicorn's HTTP/1.1 protocol with bounds on what comes before an endpoint.

Bounds the size, number and arrival time of headers and the number of connections; refusals have
the same JSON shape as all others. Gives streams a way to cut a connection whose reader is stuck.
"""

import asyncio
import socket
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pagemill.errors import PagemillError, Unavailable
from pagemill.server.errors import HttpRefusal, error_body
from pagemill.server.sse import ABORT_EXTENSION

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 256
HEAD_TIMEOUT_S = 15.0
SEND_BUFFER_BYTES = 128 * 1024  # the kernel's share; its own choice is megabytes a connection


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Use a subclass made by `bounded_protocol`."""

    max_connections = 1024

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_whole = False
        self._refusal: PagemillError | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected: too many are told so and closed."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if len(self.connections) > self.max_connections:
            self._refuse(Unavailable(f"More than {self.max_connections} connections are open."))
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. Bodies are counted elsewhere: only heads are bounded here."""
        if self.transport.is_closing():
            return
        if self._head_whole:
            super().data_received(data)
            return
        self._arm()
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._head_whole and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())

    def on_headers_complete(self) -> None:
        """The head of a request is whole."""
        self._disarm()
        self._head_whole = True
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refusal = _head_too_large()
            raise self._refusal  # the parser stops and calls send_400_response
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {ABORT_EXTENSION: self.transport.abort}
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole: the next bytes are a head again."""
        self._head_whole = False
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """The parser gave up."""
        self._refuse(self._refusal or HttpRefusal(400, "bad_request", "This is not valid HTTP."))

    def _arm(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_timed_out)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        message = f"No whole request head came within {HEAD_TIMEOUT_S:g} seconds."
        self._refuse(HttpRefusal(408, "request_timeout", message))

    def _refuse(self, error: PagemillError) -> None:
        """Answer outside of any request cycle and close."""
        self._disarm()
        if self.transport.is_closing():
            return
        body = error_body(error)
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _head_too_large() -> HttpRefusal:
    return HttpRefusal(
        431,
        "headers_too_large",
        f"At most {MAX_HEADERS} headers of {MAX_HEAD_BYTES} bytes in all are accepted.",
    )


def bounded_protocol(max_connections: int) -> type[BoundedProtocol]:
    """The protocol class of one server: uvicorn makes instances, so the class has the limit."""
    return type("Connection", (BoundedProtocol,), {"max_connections": max_connections})
