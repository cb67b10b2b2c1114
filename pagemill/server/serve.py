"""Runs the application as a process: socket, signals, drain. Knows uvicorn; knows no endpoint.

The first SIGTERM or SIGINT drains: new requests get 503, answers in flight finish, for at most
`drain_s` seconds; then those left end with an error of their own. A second signal ends them now.
Either way the process ends in order, with exit code 0.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from pagemill.config import HttpConfig
from pagemill.server.address import bind, check_exposure
from pagemill.server.connection import bounded_protocol
from pagemill.server.state import ServerState

if TYPE_CHECKING:
    from starlette.applications import Starlette

KEEP_ALIVE_S = 75  # longer than most proxies', so that they close first
LAST_WORDS_S = 2  # for error records to reach slow readers

log = logging.getLogger("pagemill.server")


def run(
    app: Starlette, http: HttpConfig, on_listening: Callable[[str], None] | None = None
) -> None:
    """Serve until a signal. `on_listening` is told the URL once connections are accepted.

    Raises ConfigError before anything listens: a public address without a key, or a busy port.
    """
    check_exposure(http)
    listener = bind(http)
    try:
        make_server(app, http, listener, on_listening).run(sockets=[listener])
    finally:
        listener.close()


def make_server(
    app: Starlette,
    http: HttpConfig,
    listener: socket.socket,
    on_listening: Callable[[str], None] | None = None,
) -> DrainingServer:
    """The server on a bound socket, not yet running."""
    set_up_logging(http.log_level)
    host = f"[{http.host}]" if ":" in http.host else http.host
    config = uvicorn.Config(
        app,
        http=bounded_protocol(http.max_connections),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_WORDS_S,
        backlog=2048,
    )
    url = f"http://{host}:{listener.getsockname()[1]}"
    told = None if on_listening is None else (lambda: on_listening(url))
    return DrainingServer(config, app.state.server, http.drain_s, told)


def set_up_logging(level: str) -> None:
    """Our log lines to stderr, unless the embedding program has arranged otherwise."""
    ours = logging.getLogger("pagemill")
    ours.setLevel(level.upper())
    if not ours.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        ours.addHandler(handler)
    logging.getLogger("uvicorn.error").setLevel("ERROR")


class DrainingServer(uvicorn.Server):
    """uvicorn's server with our way to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        drain_s: float,
        on_listening: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self._state = state
        self._drain_s = drain_s
        self._on_listening = on_listening
        self._deadline = float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets)
        if self.started and self._on_listening is not None:
            self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops: flags only, the next tick acts."""
        now = monotonic()
        self._deadline = now if self._state.draining else now + self._drain_s
        self._state.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: stop when drained, or when the time for it is over."""
        if self._state.draining and not self.should_exit:
            late = monotonic() >= self._deadline
            if late or self._state.in_flight == 0:
                if late and self._state.in_flight:
                    log.warning("stopping with %d requests in flight", self._state.in_flight)
                self._state.end_all()
                self.should_exit = True
        return await super().on_tick(counter)
