"""What one server process knows while it runs: settings, live answers, whether it drains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pagemill.errors import PagemillError, Unavailable
from pagemill.server.metrics import Metrics
from pagemill.server.ports import ModelRuntime, ServedModel

if TYPE_CHECKING:
    from pagemill.config import HttpConfig


class LiveCall(Protocol):
    """A call whose requests are with an engine."""

    def fail(self, error: PagemillError) -> None: ...


class ServerState:
    """Shared by the routes and the process runner; lives on `app.state.server`."""

    def __init__(self, runtime: ModelRuntime, http: HttpConfig) -> None:
        self.runtime = runtime
        self.http = http
        self.metrics = Metrics()
        self.in_flight = 0  # HTTP requests being answered
        self.draining = False
        self.preloading: set[str] = set()
        self.preload_error = ""
        self.live: set[LiveCall] = set()

    def end_all(self) -> None:
        """End every answer now, each with an error that says why."""
        for call in list(self.live):
            call.fail(Unavailable("The server is shutting down."))

    async def model(self, name: str) -> ServedModel:
        """The model a request names; without a name, the only one there is."""
        if not name:
            entries = self.runtime.names()
            if len(entries) == 1:
                name = entries[0].name
        return await self.runtime.model(name)
