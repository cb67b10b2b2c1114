"""A running server, seen from the command line: is there one, what does it serve, and its answers.

Plain sockets and the standard library's HTTP: `pagemill run` looks for a server before anything
else, and must not pay for a client library when there is none.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pagemill.cli.talk import Ending, Event, Knobs, Turn
from pagemill.errors import (
    Busy,
    ConfigError,
    ContextTooLong,
    EngineFailure,
    InvalidRequest,
    PagemillError,
    Unavailable,
    UnknownModel,
)

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

    from pagemill.config import HttpConfig

OWNER = "pagemill"  # of the models of a server like ours
CONNECT_S = 0.15  # a server on this machine accepts at once, or there is none
LIST_S = 2.0  # a busy one may need longer to answer
ANSWER_S = 600.0  # loading a large model comes before the first byte
# Where a server that listens anywhere is to be found from here.
ANYWHERE: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Served:
    """One model of a server's list."""

    name: str
    owner: str
    max_model_len: int | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """One row of `ps`."""

    name: str
    size: int
    backend: str
    context: int
    running: int
    waiting: int
    pages_used: int
    pages_total: int


@dataclass(frozen=True, slots=True)
class Server:
    """An address where a server may be."""

    host: str
    port: int
    prefix: str = ""  # path before /v1, for servers behind a proxy
    key: str = ""
    tls: bool = False

    @classmethod
    def at(cls, url: str, key: str) -> Server:
        """The server at a URL as people write it: with or without scheme, port and /v1."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"--url {url!r} is no URL: {error}", param="url") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"--url must look like http://127.0.0.1:8000, not {url!r}", param="url"
            )
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, port or (443 if tls else 80), path, key, tls)

    @classmethod
    def chosen(cls, http: HttpConfig, url: str = "") -> Server:
        """The server at `url`; without one, the one that this machine's settings would start."""
        key = http.api_key[0] if http.api_key else ""
        if url:
            return cls.at(url, key)
        return cls(ANYWHERE.get(http.host, http.host), http.port, key=key)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"

    def listens(self) -> bool:
        """Whether anything accepts connections there."""
        try:
            socket.create_connection((self.host, self.port), timeout=CONNECT_S).close()
        except OSError:
            return False
        return True

    def models(self) -> list[Served]:
        """What the server serves. Raises Unavailable when nothing (sensible) answers."""
        listed = _rows(self._json("GET", "/v1/models", LIST_S), "data")
        return [
            Served(str(row.get("id")), str(row.get("owned_by")), row.get("max_model_len"))
            for row in listed
        ]

    def loaded(self) -> list[Loaded]:
        """The models in memory, for `ps`."""
        rows = _rows(self._json("GET", "/pagemill/models", LIST_S), "models")
        try:
            return [Loaded(**{name: row[name] for name in Loaded.__slots__}) for row in rows]
        except KeyError as error:
            raise Unavailable(f"{self.url} is another version: no {error} in its list") from None

    def unload(self, name: str) -> None:
        """Take a model out of the server's memory."""
        self._json("POST", "/pagemill/unload", ANSWER_S, {"model": name})

    def chat(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed chat completion."""
        with self._request("POST", "/v1/chat/completions", ANSWER_S, body) as response:
            for line in response:
                data = line.removeprefix(b"data:").strip()
                if not line.startswith(b"data:") or data == b"[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise _error(0, event["error"], self)
                yield event

    def _json(self, method: str, path: str, timeout: float, body: Any = None) -> Any:
        with self._request(method, path, timeout, body) as response:
            try:
                return json.loads(response.read() or b"null")
            except ValueError:
                raise Unavailable(f"{self.url} answers, but not as Pagemill does") from None

    @contextlib.contextmanager
    def _request(
        self, method: str, path: str, timeout: float, body: Any = None
    ) -> Iterator[HTTPResponse]:
        from http.client import HTTPException

        connection = self._connection(timeout)
        headers = {"Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, self.prefix + quote(path), payload, headers)
            response = connection.getresponse()
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _refusal(response, self)
            yield response
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"no answer from the server at {self.url}: {reason}") from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        kind = HTTPSConnection if self.tls else HTTPConnection
        return kind(self.host, self.port, timeout=timeout)


def _rows(body: Any, name: str) -> list[dict[str, Any]]:
    rows = body.get(name) if isinstance(body, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _refusal(response: HTTPResponse, server: Server) -> PagemillError:
    try:
        body = json.loads(response.read())
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    return _error(response.status, error if isinstance(error, dict) else {}, server)


def _error(status: int, error: dict[str, Any], server: Server) -> PagemillError:
    message = str(error.get("message") or f"the server at {server.url} answers {status}")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ConfigError(f"the server at {server.url} wants an API key: set PAGEMILL_API_KEY")
    if error.get("code") == ContextTooLong.code:
        return ContextTooLong(message)
    kinds: dict[int, type[PagemillError]] = {
        HTTPStatus.BAD_REQUEST: InvalidRequest,
        HTTPStatus.NOT_FOUND: UnknownModel,
        HTTPStatus.TOO_MANY_REQUESTS: Busy,
        HTTPStatus.SERVICE_UNAVAILABLE: Unavailable,
    }
    if status not in kinds or status == HTTPStatus.SERVICE_UNAVAILABLE:
        message = f"the server at {server.url}: {message}"  # not our own engine
    return kinds.get(status, EngineFailure)(message)


class ServerTalker:
    """Talks to one model of a running server."""

    load_s = 0.0  # the server loads on its own clock

    def __init__(self, server: Server, served: Served) -> None:
        self.server = server
        self.served = served

    @property
    def name(self) -> str:
        return self.served.name

    def info(self) -> list[tuple[str, str]]:
        """Label and value lines of /show info."""
        context = self.served.max_model_len
        return [
            ("model", self.name),
            ("server", self.server.url),
            ("context", f"{context} tokens" if context else "known once it is loaded"),
        ]

    def template(self) -> str:
        """Servers do not tell their templates."""
        return ""

    def answer(self, turns: list[Turn], knobs: Knobs) -> Iterator[Event]:
        """Stream an answer; closing the iterator drops the connection, which stops the server."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        body = {"model": self.name, "messages": messages, "stream": True}
        body |= knobs.body(ours=self.served.owner == OWNER)
        body["stream_options"] = {"include_usage": True}
        started, first = time.perf_counter(), 0.0
        finish = ""
        usage: dict[str, Any] = {}
        with contextlib.closing(self.server.chat(body)) as events:  # type: ignore[type-var]
            for event in events:
                usage = event.get("usage") or usage
                for choice in event.get("choices") or ():
                    finish = choice.get("finish_reason") or finish
                    if text := (choice.get("delta") or {}).get("content"):
                        first = first or time.perf_counter()
                        yield text
        if not finish:
            raise EngineFailure(f"the server at {self.server.url} broke off the answer")
        ended = time.perf_counter()
        first = first or ended
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        yield Ending(
            finish,
            usage.get("prompt_tokens", 0),
            usage.get("completion_tokens", 0),
            first - started,
            ended - first,
            cached,
        )

    def close(self) -> None:
        """Nothing is held between answers."""
