"""The one place of the hub that talks HTTP: bounded documents and resumable files.

A `Web` belongs to one base URL that the user configured. It goes to that origin, wherever it is,
and over https to public addresses that the base hands its files to; nowhere else, whatever a page
or a redirect says. Credentials go to the base origin only. Knows nothing of models: what bytes
mean, and whether they are the right ones, is checked by the caller.
"""

import base64
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from pagemill.errors import ConfigError, DownloadError
from pagemill.hub.remotes import Timing
from pagemill.hub.wire import TROUBLE, Wires, refusal

MAX_REDIRECTS = 5
MAX_WORDS = 200  # of a server's own explanation

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")

T = TypeVar("T")


class HttpStatus(DownloadError):
    """The server gave a final answer that is not the document: its status, and its reasons."""

    def __init__(self, message: str, http_status: int, error_code: str, words: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.error_code = error_code
        self.words = words


class _Transient(Exception):
    """Worth another attempt, after `wait_s` seconds if the server asked for a pause."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class _Answer:
    """The head of an answer, and its body as it comes."""

    url: httpx.URL
    status: int
    headers: httpx.Headers
    body: Iterator[bytes]


class Web:
    """Fetches from one configured origin. A context manager: leaving it closes the connections."""

    def __init__(self, base_url: str, *, token: str = "", timing: Timing) -> None:
        base = _parse(base_url, ConfigError)
        if base.scheme not in ("http", "https") or not base.host:
            raise ConfigError(f"{public(base)} is not an http or https address")
        self.base = base.copy_with(userinfo=b"")
        self._timing = timing
        self._credentials = {}
        if token:
            self._credentials = {"Authorization": f"Bearer {token}"}
        elif base.userinfo:
            pair = f"{base.username}:{base.password}".encode()
            self._credentials = {"Authorization": "Basic " + base64.b64encode(pair).decode()}
        self._wires = Wires(self.base, timing.stall_s)

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        self._wires.close()

    def document(self, url: str, accept: str, limit: int) -> tuple[str, str, bytes]:
        """A document of at most `limit` bytes: its final URL, its content type, its bytes."""

        def attempt() -> tuple[str, str, bytes]:
            body = bytearray()
            with self._open(url, {"Accept": accept}) as answer:
                for chunk in answer.body:
                    body += chunk
                    if len(body) > limit:
                        raise DownloadError(f"{public(answer.url)}: over {limit} bytes")
            kind = answer.headers.get("Content-Type", "")
            return str(answer.url), kind, bytes(body)

        return self._retry(url, attempt, lambda: False)

    def beginning(self, url: str, size: int) -> bytes:
        """The first `size` bytes of a file; all of a shorter one."""

        def attempt() -> bytes:
            body = bytearray()
            with self._open(url, {"Range": f"bytes=0-{size - 1}"}) as answer:
                for chunk in answer.body:
                    body += chunk
                    if len(body) >= size:  # the server ignores ranges
                        break
            return bytes(body[:size])

        return self._retry(url, attempt, lambda: False)

    def download(self, url: str, path: Path, size: int, report: Callable[[int], None]) -> None:
        """Bring `path` to exactly `size` bytes, going on where an earlier attempt stopped.

        `report` gets the bytes that are there. Raises DownloadError; `path` stays for a later call
        unless the server sent more than `size` bytes.
        """
        best = _length(path)

        def attempt() -> None:
            self._append(url, path, size, report)

        def advanced() -> bool:
            # A thousandth of the file at least, so that the number of attempts has a bound.
            nonlocal best
            before, best = best, max(best, _length(path))
            return best > before + size // 1000

        self._retry(url, attempt, advanced)

    def check(self, url: httpx.URL) -> None:
        """Raise DownloadError unless this Web may go to `url`. Asks nobody, opens no connection.

        What a name resolves to is checked when it is connected to.
        """
        if _origin(url) == _origin(self.base):
            return
        reason = ""
        if url.scheme != "https" or url.port not in (None, 443) or not url.host:
            reason = "is neither there nor an https address with the usual port"
        elif words := refusal(url.host):
            reason = f"is not for us: {words}"
        if reason:
            raise DownloadError(f"{self.base.host} leads to {public(url)}, which {reason}: refused")

    def _retry(self, url: str, attempt: Callable[[], T], advanced: Callable[[], bool]) -> T:
        failures = 0
        while True:
            try:
                return attempt()
            except _Transient as trouble:
                failures = 0 if advanced() else failures + 1
                where = public(_parse(url, DownloadError))
                if failures >= self._timing.attempts:
                    raise DownloadError(
                        f"{where}: {trouble} ({failures} attempts; what has come is kept)"
                    ) from trouble
                if trouble.wait_s > self._timing.max_wait_s:
                    raise DownloadError(
                        f"{where}: {trouble}; asks to wait {trouble.wait_s:.0f} seconds"
                    ) from trouble
                backoff = self._timing.backoff_s * 2.0 ** max(failures - 1, 0)
                # Jitter keeps many clients of one server from coming back at the same moment.
                pause = backoff * (0.5 + random.random())  # noqa: S311
                time.sleep(max(trouble.wait_s, min(pause, self._timing.max_wait_s)))

    @contextmanager
    def _open(self, url: str, headers: dict[str, str]) -> Iterator[_Answer]:
        """GET, following only redirects that `check` allows."""
        target = _parse(url, DownloadError)
        for _ in range(MAX_REDIRECTS + 1):
            target = target.copy_with(userinfo=b"")
            self.check(target)
            # Identity: sizes are then what was declared, and nothing can unpack to a giant.
            sent = {**headers, "Accept-Encoding": "identity"}
            if _origin(target) == _origin(self.base):
                sent |= self._credentials
            try:
                with self._wires.get(target, sent) as response:
                    answer = _Answer(
                        target,
                        response.status,
                        httpx.Headers(response.headers),
                        response.iter_stream(),
                    )
                    if answer.status in _REDIRECTS and "Location" in answer.headers:
                        target = _join(target, answer.headers["Location"])
                        continue
                    _check_answer(answer)
                    yield answer
                    return
            except TROUBLE as error:
                reason = str(error) or type(error).__name__
                raise _Transient(reason) from error
        raise DownloadError(f"{public(target)}: more than {MAX_REDIRECTS} redirects")

    def _append(self, url: str, path: Path, size: int, report: Callable[[int], None]) -> None:
        have = _length(path)
        if have > size:
            os.truncate(path, 0)
            have = 0
        if have == size:
            path.touch()  # nothing is asked for an empty file
            return
        with self._open(url, {"Range": f"bytes={have}-"} if have else {}) as answer:
            begin = _first_byte(answer, have, size)
            with open(path, "r+b" if path.exists() else "w+b") as file:
                file.seek(begin or 0)
                file.truncate()
                if begin is None:
                    raise _Transient("the server answered with another range than asked for")
                have = begin
                for chunk in answer.body:
                    have += len(chunk)
                    if have > size:
                        file.truncate(0)
                        raise DownloadError(f"{public(answer.url)}: more than {size} bytes")
                    file.write(chunk)
                    report(have)
        if have < size:
            raise _Transient(f"ended after {have} of {size} bytes")


def public(url: httpx.URL) -> str:
    """A URL as it may be shown: no user, no password, no query (which can hold a signature)."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def _check_answer(answer: _Answer) -> None:
    where = public(answer.url)
    if answer.status in _RETRIED:
        raise _Transient(f"the server answered {answer.status}", _retry_after(answer))
    if answer.status not in (200, 206, 416):
        code, words = (_shown(answer, f"X-Error-{part}") for part in ("Code", "Message"))
        message = f"{where}: the server answered {answer.status}"
        raise HttpStatus(f"{message} ({words})" if words else message, answer.status, code, words)
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(f"{where}: the server sent a compressed answer to a plain request")


def _first_byte(answer: _Answer, have: int, size: int) -> int | None:
    """Where in the file the body begins: `have`, 0 when ranges are ignored, None: neither."""
    start = 0
    if answer.status != 200:
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have or match[3] not in ("*", str(size)):
            return None
        start = have
    length = answer.headers.get("Content-Length", "")
    if re.fullmatch(r"\d{1,18}", length) and start + int(length) != size:
        raise DownloadError(
            f"{public(answer.url)}: the server's file has {start + int(length)} bytes, "
            f"not the expected {size}"
        )
    return start


def _shown(answer: _Answer, header: str) -> str:
    """A header as a message may repeat it."""
    text = answer.headers.get(header, "")
    return "".join(c for c in text if c.isascii() and c.isprintable())[:MAX_WORDS]


def _retry_after(answer: _Answer) -> float:
    text = answer.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"\d{1,9}", text) else 0.0


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    port = url.port or (443 if url.scheme == "https" else 80)
    return url.scheme, url.host.lower(), port


def _parse(url: str, error_type: type[ConfigError] | type[DownloadError]) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise error_type(f"an address cannot be read: {error}") from error


def _join(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except httpx.InvalidURL as error:
        raise DownloadError(f"{public(url)}: redirects to no address: {error}") from error


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
