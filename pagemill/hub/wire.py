"""The sockets of the hub: which addresses are connected to, and how slowly a sender may send.

Names are resolved here and the address that was checked is the one that is connected to, so that no
second answer of a name server can lead elsewhere. Knows no HTTP beyond whose library it serves.
"""

import ipaddress
import socket
import time
from collections.abc import Iterable
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from pagemill import __version__
from pagemill.errors import ConfigError, DownloadError

MIN_BYTES = 4096  # per `stall_s`; slower is a stall
CONNECT_S = 10.0
USER_AGENT = f"pagemill/{__version__}"

# Hosts (and their subdomains) that the public hubs keep their files on.
FILE_HOSTS = ("pythonhosted.org", "hf.co", "huggingface.co")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# What a connection fails with, on this side or the other.
TROUBLE = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Wires:
    """Connections for one user-given origin, which may be anywhere, and for public addresses."""

    def __init__(self, trusted: httpx.URL, stall_s: float) -> None:
        self._stall_s = stall_s
        self._trusted = _end(trusted)
        self._ssl = httpx.create_ssl_context()
        self._pools: dict[str, httpcore.ConnectionPool] = {}

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()

    def get(self, url: httpx.URL, headers: dict[str, str]) -> Any:
        """A context manager that yields the answer to a GET, an `httpcore.Response`."""
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        waits = {"connect": CONNECT_S, "pool": CONNECT_S, "read": self._stall_s}
        own = {"Host": url.netloc.decode("ascii"), "User-Agent": USER_AGENT}
        return self._pool(url).stream(
            "GET",
            target,
            headers=list((own | headers).items()),
            extensions={"timeout": waits | {"write": self._stall_s}},
        )

    def _pool(self, url: httpx.URL) -> httpcore.ConnectionPool:
        proxy = proxy_of(url)
        if proxy not in self._pools:
            if not proxy:
                backend = _Backend(self._trusted, self._stall_s)
                pool = httpcore.ConnectionPool(self._ssl, network_backend=backend)
            else:
                pool = self._proxied(httpx.URL(proxy))
            self._pools[proxy] = pool
        return self._pools[proxy]

    def _proxied(self, proxy: httpx.URL) -> httpcore.ConnectionPool:
        if proxy.scheme not in ("http", "https") or not proxy.host:
            raise ConfigError(f"a proxy must be an http or https address, not {proxy.scheme}://")
        auth = (proxy.username, proxy.password) if proxy.username else None
        return httpcore.HTTPProxy(
            str(proxy.copy_with(userinfo=b"")),
            proxy_auth=auth,
            ssl_context=self._ssl,
            proxy_ssl_context=self._ssl if proxy.scheme == "https" else None,
            network_backend=_Backend(_end(proxy), self._stall_s),
        )


def proxy_of(url: httpx.URL) -> str:
    """The proxy that the environment names for an address, or ""."""
    if proxy_bypass(url.host):
        return ""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all") or ""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def refusal(host: str) -> str:
    """Why a host, by its spelling alone, is not a public one; "" when it may be. Asks nobody."""
    host = host.rstrip(".")
    address = _literal(host)
    if address is not None:
        return "" if is_public(address) else f"{address} is not a public address"
    if "." not in host or host.endswith(".localhost"):
        return f"{host} is not a public name"
    return ""


def is_public(address: Address) -> bool:
    """Whether an address is one of the whole Internet's, also where it holds another inside."""
    inside: Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.teredo is not None:
            return False
    if inside is not None:
        return is_public(inside)
    return address.is_global and not address.is_multicast


def checked_addresses(host: str, port: int, well_known: bool) -> list[str]:
    """The addresses of a host, none of which is for us to refuse. DownloadError when one is.

    A host of nobody in particular must be on public addresses. A well-known one proves by its
    certificate who it is: it may be behind a gateway or a tunnel with addresses of its own, but
    not on this machine or link.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
    texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in texts:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not (is_public(address) or (well_known and _is_elsewhere(address))):
            raise DownloadError(f"{host} resolves to {text}, which is no public address: refused")
    return texts


def _is_elsewhere(address: Address) -> bool:
    """Whether an IPv4 address is neither of this machine nor of its link."""
    near = address.is_loopback or address.is_link_local or address.is_unspecified
    return address.version == 4 and not near and not address.is_multicast


def _literal(host: str) -> Address | None:
    """The address that a host is, in any spelling that a resolver would take for one."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _end(url: httpx.URL) -> tuple[str, int]:
    return url.host.lower(), url.port or (443 if url.scheme == "https" else 80)


class _Backend(httpcore.NetworkBackend):
    """Connects to the trusted end as it is named, to others by an address that was checked."""

    def __init__(self, trusted: tuple[str, int], stall_s: float) -> None:
        self._trusted = trusted
        self._known = (trusted[0], *FILE_HOSTS)
        self._stall_s = stall_s
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        trusted = (host.lower(), port) == self._trusted
        known = any(host == other or host.endswith(f".{other}") for other in self._known)
        *others, last = [host] if trusted else checked_addresses(host, port, known)
        for address in others:
            try:
                stream = self._sockets.connect_tcp(address, port, timeout, local_address)
            except (httpcore.NetworkError, httpcore.TimeoutException):
                continue
            return _Paced(stream, self._stall_s)
        stream = self._sockets.connect_tcp(last, port, timeout, local_address)
        return _Paced(stream, self._stall_s)


class _Paced(httpcore.NetworkStream):
    """A connection whose sender must not dawdle: headers, chunks and bodies alike."""

    def __init__(self, stream: httpcore.NetworkStream, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._waited, self._got = 0.0, 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        began = time.monotonic()
        data = self._stream.read(max_bytes, timeout)
        # Only time spent waiting counts: a slow disk here is not a slow sender there.
        self._waited += time.monotonic() - began
        self._got += len(data)
        if self._waited > self._stall_s:
            if self._got < MIN_BYTES:
                raise httpcore.ReadTimeout(f"{self._got} bytes in {self._stall_s:g} seconds")
            self._waited, self._got = 0.0, 0
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._waited, self._got = 0.0, 0
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _Paced(stream, self._stall_s)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
