"""Bounds on requests before an endpoint reads them: size and encoding of bodies, draining."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagemill.errors import Unavailable
from pagemill.server.errors import HttpRefusal, error_response
from pagemill.server.state import ServerState

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
