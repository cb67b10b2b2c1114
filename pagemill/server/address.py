"""Where a server listens: who can reach an address, and whether it can be had.

Cheap to import, so that the command line refuses an address before anything slow is loaded. Knows
no application and no protocol.
"""

import socket
from ipaddress import ip_address

from pagemill.config import HttpConfig
from pagemill.errors import ConfigError


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(http: HttpConfig) -> None:
    """Refuse to serve strangers by accident."""
    if not is_loopback(http.host) and not http.api_key and not http.allow_public:
        raise ConfigError(
            f"host is {http.host!r}, which others can reach, and there is no API key. Set one "
            "with --api-key, listen on 127.0.0.1, or say --allow-public to serve anyone.",
            param="host",
        )


def bind(http: HttpConfig) -> socket.socket:
    """The listening socket. ConfigError when the address cannot be had."""
    try:
        return _bound(http.host, http.port)
    except OSError as error:
        problem = _problem(http.host, http.port, error)
        raise ConfigError(f"{problem}; choose another with --port", param="port") from error


def port_problem(host: str, port: int) -> str:
    """Why a server cannot listen there; empty when it can."""
    try:
        _bound(host, port).close()
    except OSError as error:
        return _problem(host, port, error)
    return ""


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _problem(host: str, port: int, error: OSError) -> str:
    return f"cannot listen on {host} port {port}: {error.strerror or error}"
