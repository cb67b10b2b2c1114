"""HTTP/1.1 as a load generator needs it: one request over a connection of its own, its answer
handed over line by line with the time it came.

The client shares the machine with what it measures, so bytes are taken apart by hand: some
microseconds a token. Must not know: what the lines say.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

from pagemill.errors import ConfigError

LONGEST_HEAD = 1 << 16
LONGEST_LINE = 1 << 24
LONGEST_REFUSAL = 1 << 16
LONGEST_CHUNK_LINE = 1 << 10
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int
    prefix: str = ""  # path before /v1, for servers behind a proxy
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> Address:
        """As people write it: with or without scheme, port and /v1."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"a server's URL must look like http://127.0.0.1:8000, not {url!r}")
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, port or (443 if tls else 80), prefix, tls)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"

    @property
    def is_here(self) -> bool:
        return self.host in LOOPBACK


class Broken(Exception):
    """What came is not HTTP/1.1 as we know it, or it ended early."""


class _Reader(asyncio.Protocol):
    """Takes the answer of one request apart."""

    def __init__(self, request: bytes, on_line: Callable[[bytes, float], None]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.refusal = b""
        self._request = request
        self._on_line = on_line
        self._raw = b""  # not taken apart yet
        self._line = b""  # the beginning of a line
        self._chunked = False
        self._left: int | None = None  # bytes of a body of known length

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = perf_counter()
        if self.done.done():
            return
        try:
            self._raw = self._raw + data if self._raw else data
            if not self.status and not self._head():
                return
            if self._chunked:
                self._chunks(now)
            else:
                self._body(now)
        except Exception as error:
            self.done.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None and self.status and not self._chunked and self._left is None:
            self._end(perf_counter())  # a body that ends with its connection
        else:
            self.done.set_exception(Broken("the connection closed in the middle of the answer"))

    def give_up(self, seconds: float) -> None:
        """The time is over."""
        if not self.done.done():
            self.done.set_exception(Broken(f"no whole answer within {seconds:g} s"))

    def _head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0:
            if len(self._raw) > LONGEST_HEAD:
                raise Broken(f"the head of the answer is longer than {LONGEST_HEAD} bytes")
            return False
        first, *fields = self._raw[:end].split(b"\r\n")
        parts = first.split(b" ", 2)
        if not first.startswith(b"HTTP/1.") or len(parts) < 2 or not parts[1].isdigit():
            raise Broken(f"the answer does not begin as HTTP/1.1 does: {first[:60]!r}")
        self._raw = self._raw[end + 4 :]
        for line in fields:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip().lower()
            if name == b"transfer-encoding":
                self._chunked = value.endswith(b"chunked")
            elif name == b"content-length" and value.isdigit():
                self._left = int(value)
        self.status = int(parts[1])
        if self._left == 0 and not self._chunked:
            self._end(perf_counter())
        return not self.done.done()

    def _body(self, now: float) -> None:
        data, self._raw = self._raw, b""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._lines(data, now)
        if self._left == 0:
            self._end(now)

    def _chunks(self, now: float) -> None:
        raw, at = self._raw, 0
        while (end := raw.find(b"\r\n", at)) >= 0:
            try:
                size = int(raw[at:end].split(b";", 1)[0], 16)
            except ValueError:
                raise Broken(f"a chunk begins with {raw[at : at + 20]!r}") from None
            if size == 0:
                self._end(now)
                return
            if len(raw) < end + size + 4:
                break
            self._lines(raw[end + 2 : end + 2 + size], now)
            at = end + size + 4
        self._raw = raw[at:]
        if end < 0 and len(self._raw) > LONGEST_CHUNK_LINE:
            raise Broken(f"a chunk begins with {self._raw[:20]!r}")
        if len(self._raw) > LONGEST_LINE:
            raise Broken(f"a chunk of the answer is longer than {LONGEST_LINE} bytes")

    def _end(self, now: float) -> None:
        if self._line:
            self._on_line(self._line, now)
        self.done.set_result(None)

    def _lines(self, data: bytes, now: float) -> None:
        if self.status != HTTPStatus.OK:
            self.refusal = (self.refusal + data)[:LONGEST_REFUSAL]
            return
        *whole, self._line = (self._line + data).split(b"\n")
        for line in whole:
            if line and line != b"\r":
                self._on_line(line, now)
        if len(self._line) > LONGEST_LINE:
            raise Broken(f"a line of the answer is longer than {LONGEST_LINE} bytes")


class Wire:
    """The way to one server."""

    def __init__(self, address: Address, key: str) -> None:
        self.address = address
        self._tls = ssl.create_default_context() if address.tls else None
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._fields = (
            f"Host: {host}:{address.port}\r\nContent-Type: application/json\r\n"
            f"Accept: */*\r\nConnection: close\r\n"
        )
        if key:
            self._fields += f"Authorization: Bearer {key}\r\n"

    async def post(
        self, path: str, payload: bytes, on_line: Callable[[bytes, float], None], timeout: float
    ) -> tuple[int, bytes]:
        """Send a JSON body; the status, and the body of a refusal. Raises OSError and Broken.

        The time limit is the reader's own: `asyncio.wait_for` may lose a cancellation that comes
        together with the answer, and then nobody could stop a measurement.
        """
        head = f"POST {self.address.prefix}{path} HTTP/1.1\r\n{self._fields}"
        head += f"Content-Length: {len(payload)}\r\n\r\n"
        request = head.encode() + payload
        transport, reader = await asyncio.get_running_loop().create_connection(
            lambda: _Reader(request, on_line),
            self.address.host,
            self.address.port,
            ssl=self._tls,
        )
        limit = asyncio.get_running_loop().call_later(timeout, reader.give_up, timeout)
        try:
            await reader.done
        finally:
            limit.cancel()
            transport.close()
        return reader.status, reader.refusal
