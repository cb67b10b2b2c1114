"""API keys: who is calling. Deny by default: every path of every method except /health needs a key.

The check looks at the same decoded path that the router matches, and at nothing else of the URL.
Keys are compared as SHA-256 digests, all of them every time, in constant time.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from pagemill.server.errors import HttpRefusal, error_response

PUBLIC_PATHS = frozenset({"/health"})
IDENTITY = "pagemill.identity"  # scope key: "" or a digest that stands for the API key

Headers = Iterable[tuple[bytes, bytes]]


class KeyRing:
    """The configured keys, as digests."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys if key]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def identity(self, headers: Headers) -> str | None:
        """The digest of the caller's key in hex, None when no presented key is right."""
        bearers: list[bytes] = []
        others: list[bytes] = []
        for name, value in headers:
            if name == b"authorization":
                bearers.append(value)
            elif name == b"x-api-key":
                others.append(value)
        if len(bearers) > 1 or len(others) > 1:
            return None  # two answers to "who are you" are none
        for value in bearers:
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                others.append(key.strip())
        found: str | None = None
        for key in others:
            presented = hashlib.sha256(key).digest()
            for digest in self._digests:
                if hmac.compare_digest(digest, presented):
                    found = digest.hex()
        return found


class Auth:
    """Middleware: refuses callers without a key, marks the others with their identity."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        identity: str | None = ""
        if self._keys and scope["path"] not in PUBLIC_PATHS:
            identity = self._keys.identity(scope["headers"])
        if identity is None:
            refusal = HttpRefusal(
                401, "invalid_api_key", "A valid API key is needed: Authorization: Bearer <key>."
            )
            await error_response(refusal, close=True)(scope, receive, send)
            return
        scope[IDENTITY] = identity
        await self._app(scope, receive, send)
