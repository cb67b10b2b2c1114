"""Bounds on requests before an endpoint reads them: size and encoding of bodies, draining."""

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagemill.errors import Unavailable
from pagemill.server.errors import HttpRefusal, error_response
from pagemill.server.fields import Fields, parse_object
from pagemill.server.state import ServerState

BODY_TIMEOUT_S = 60.0
INLINE_BYTES = 256 * 1024  # parsing more would hold up the streams
_ALWAYS_OPEN = frozenset({"/health", "/metrics"})  # also while draining


def _too_large(limit: int) -> HttpRefusal:
    return HttpRefusal(
        413, "body_too_large", f"The request body is larger than {limit} bytes (max_body_bytes)."
    )


class Limits:
    """Middleware: refuses large or compressed bodies, and everything while draining."""

    def __init__(self, app: ASGIApp, state: ServerState, max_body_bytes: int) -> None:
        self._app = app
        self._state = state
        self._max = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if self._state.draining and scope["path"] not in _ALWAYS_OPEN:
            error = Unavailable("The server is shutting down.", retry_after=5)
            await error_response(error, close=True)(scope, receive, send)
            return
        declared = 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                declared = int(value) if value.isdigit() and len(value) < 20 else self._max + 1
            elif name == b"content-encoding" and value.lower() != b"identity":
                refusal = HttpRefusal(
                    415, "unsupported_encoding", "Compressed request bodies are not accepted."
                )
                await error_response(refusal, close=True)(scope, receive, send)
                return
        if declared > self._max:
            await error_response(_too_large(self._max), close=True)(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        """Chunked bodies declare no length: count what comes."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._max:
                    raise _too_large(self._max)
            return message

        return counted


async def read_fields(request: Request) -> Fields:
    """The JSON object in a request's body, read in bounded time."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise HttpRefusal(
            415, "unsupported_media_type", "The body must be Content-Type: application/json."
        )
    try:
        body = await asyncio.wait_for(request.body(), BODY_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise HttpRefusal(
            408, "body_timeout", f"The body did not arrive within {BODY_TIMEOUT_S:g} seconds."
        ) from None
    if len(body) > INLINE_BYTES:
        return await asyncio.to_thread(parse_object, body)
    return parse_object(body)
