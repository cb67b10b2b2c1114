"""Who may call from where: the Host and Origin checks that keep web pages off a local server.

A page on the web can make a browser call loopback addresses. Three rules stop it: the Host header
must name this server (a rebound DNS name does not), an Origin must be this server's own or
configured, and what a browser marks as cross-site is refused.
"""

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagemill.server.address import is_loopback
from pagemill.server.errors import HttpRefusal, error_response

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_METHODS = b"GET, POST, DELETE, OPTIONS"
_ANY_HOST = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


def _hostname(host: str) -> str:
    """A Host header without its port: "[::1]:8000" is "[::1]"."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


class OriginGuard:
    """Middleware: Host, Origin and CORS. `host` is the bound address."""

    def __init__(
        self, app: ASGIApp, host: str, allowed_hosts: Sequence[str], origins: Sequence[str]
    ) -> None:
        self._app = app
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._hosts = frozenset(name.lower() for name in allowed_hosts)
        if is_loopback(host) or self._hosts:
            bound = f"[{host}]" if ":" in host else host
            self._hosts |= _LOOPBACK_NAMES | ({bound.lower()} - _ANY_HOST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        sites = [value for name, value in headers if name == b"sec-fetch-site"]
        origin = origins[0].decode("latin-1").lower() if origins else ""
        listed = origin in self._origins or "*" in self._origins
        refusal = self._refusal(scope, hosts, origins, sites, listed=bool(origins) and listed)
        if refusal is not None:
            await error_response(refusal, close=True)(scope, receive, send)
        elif origins and listed:
            await self._with_cors(scope, receive, send, origins[0])
        else:
            await self._app(scope, receive, send)

    def _refusal(
        self,
        scope: Scope,
        hosts: Sequence[bytes],
        origins: Sequence[bytes],
        sites: Sequence[bytes],
        *,
        listed: bool,
    ) -> HttpRefusal | None:
        if len(hosts) != 1 or len(origins) > 1:
            if not hosts and scope["http_version"] == "1.0" and not self._hosts:
                return None
            return HttpRefusal(400, "bad_host", "Exactly one Host header is needed.")
        host = hosts[0].decode("latin-1").lower()
        if self._hosts and host not in self._hosts and _hostname(host) not in self._hosts:
            return HttpRefusal(
                403,
                "host_not_allowed",
                "This Host header does not name this server; add the name to allowed_hosts.",
            )
        if listed:
            return None
        own = f"{scope['scheme']}://{host}".encode("latin-1")
        foreign = bool(origins) and origins[0].lower() != own
        if foreign or any(site in (b"cross-site", b"same-site") for site in sites):
            return HttpRefusal(
                403,
                "origin_not_allowed",
                "Web pages of another origin may not call this server; "
                "add the origin to allowed_origins.",
            )
        return None

    async def _with_cors(self, scope: Scope, receive: Receive, send: Send, origin: bytes) -> None:
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"x-request-id, retry-after"),
            (b"vary", b"Origin"),
        ]
        names = {name for name, _ in scope["headers"]}
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in names:
            headers += [
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", b"authorization, content-type, x-api-key"),
                (b"access-control-max-age", b"600"),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self._app(scope, receive, with_headers)
