"""The outermost layer: request ids, one log line and one count per request, and no escaping error.

A log line shows method, path, status, time and id; never a body. Control characters are escaped.
"""

import logging
import re
import secrets
from time import monotonic

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagemill.errors import PagemillError
from pagemill.server.errors import HttpRefusal, error_response
from pagemill.server.sse import ClientGone
from pagemill.server.state import ServerState

log = logging.getLogger("pagemill.server")
access_log = logging.getLogger("pagemill.access")

STARTED = "pagemill.started"  # scope key: monotonic time of arrival
CLIENT_CLOSED = 499  # as nginx says it

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_MAX_PATH = 200


def request_id(scope: Scope) -> bytes:
    """The caller's X-Request-Id when it is a sane one, else a new id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return secrets.token_hex(12).encode()


def printable(text: str) -> str:
    """Text for a log line: cut, and ASCII with everything else escaped."""
    return text[:_MAX_PATH].encode("unicode_escape").decode("ascii")


class Access:
    """Middleware around all others."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # there is no WebSocket endpoint
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = scope[STARTED] = monotonic()
        own_id = request_id(scope)
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", own_id)]
                message = {**message, "headers": headers}
            await send(message)

        self._state.in_flight += 1
        try:
            await self._app(scope, receive, tagged)
        except (ClientGone, ClientDisconnect):
            status = CLIENT_CLOSED
        except PagemillError as error:
            await self._report(error, status, scope, receive, tagged)
        except Exception:  # the boundary of one request: the server goes on
            log.exception("request %s failed", own_id.decode())
            failure = HttpRefusal(500, "internal_error", "The server failed on this request.")
            await self._report(failure, status, scope, receive, tagged)
        finally:
            self._state.in_flight -= 1
            self._record(scope, status or 500, monotonic() - started, own_id)

    async def _report(
        self, error: PagemillError, status: int, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if status:  # too late for an answer; the cut connection tells
            log.error("answer broke off: %s", error.message)
            return
        await error_response(error, close=True)(scope, receive, send)

    def _record(self, scope: Scope, status: int, seconds: float, own_id: bytes) -> None:
        route = scope.get("route")
        handler = getattr(route, "path", "none")  # the route's pattern, not the request's path
        method = scope["method"]
        self._state.metrics.answered(method, status, handler, seconds)
        client = scope.get("client")
        access_log.info(
            '%s "%s %s" %d %.1fms id=%s',
            client[0] if client else "-",
            printable(method),
            printable(scope["path"]),
            status,
            seconds * 1e3,
            own_id.decode(),
        )
