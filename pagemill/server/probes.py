"""What operators and orchestrators ask: is it alive, is it ready, how loaded, which version."""

import asyncio
import secrets
from time import monotonic

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from pagemill import __version__
from pagemill.errors import PagemillError, Unavailable
from pagemill.server.bodies import json_response
from pagemill.server.metrics import CONTENT_TYPE
from pagemill.server.ports import ServedModel
from pagemill.server.state import ServerState
from pagemill.types import EngineStats, Request, SamplingParams

STATS_TIMEOUT_S = 2.0
READY_TIMEOUT_S = 10.0
HEALTH_MAX_AGE_S = 1.0  # /health needs no key: it must not be a way to load the engines
_FIRST = -(2**31)  # priority: a probe does not wait behind users


class Probes:
    """The endpoints, bound to one server."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._checked = float("-inf")
        self._problem: PagemillError | None = None

    async def health(self, request: HttpRequest) -> Response:
        """200 while this process and every loaded engine answer, else 503 with the reason."""
        if monotonic() - self._checked > HEALTH_MAX_AGE_S:
            self._checked = monotonic()
            self._problem = await self._first_problem()
        if self._problem is not None:
            raise self._problem
        return json_response({"status": "ok"})

    async def _first_problem(self) -> PagemillError | None:
        for model in self._state.runtime.loaded():
            try:
                await asyncio.wait_for(model.client.stats(), STATS_TIMEOUT_S)
            except asyncio.TimeoutError:
                return Unavailable(f"The engine of {model.name} does not answer.")
            except PagemillError as error:
                return Unavailable(f"The engine of {model.name} is down: {error.message}")
        return None

    async def ready(self, request: HttpRequest) -> Response:
        """200 when every loaded model has just made a token, else 503 with the reason."""
        state = self._state
        if state.preload_error:
            raise Unavailable(state.preload_error)
        if state.preloading:
            raise Unavailable(f"Loading {', '.join(sorted(state.preloading))}.")
        models = state.runtime.loaded()
        if not models:
            return json_response({"status": "ready", "detail": "no model loaded", "models": []})
        if problem := await self._first_problem():
            raise problem  # an engine that is known to be down is not waited for
        for model in models:
            try:
                await asyncio.wait_for(make_a_token(model), READY_TIMEOUT_S)
            except asyncio.TimeoutError:
                raise Unavailable(
                    f"{model.name} made no token within {READY_TIMEOUT_S:g} seconds."
                ) from None
            except PagemillError as error:
                raise Unavailable(f"{model.name} made no token: {error.message}") from None
        return json_response({"status": "ready", "models": [model.name for model in models]})

    async def version(self, request: HttpRequest) -> Response:
        """GET /version"""
        return json_response({"version": __version__})

    async def load(self, request: HttpRequest) -> Response:
        """HTTP requests being answered (this one not counted), and the engines' queues."""
        stats = await self._stats()
        return json_response(
            {
                "server_load": self._state.in_flight - 1,
                "running": sum(s.running for s in stats.values()),
                "waiting": sum(s.waiting for s in stats.values()),
            }
        )

    async def metrics(self, request: HttpRequest) -> Response:
        """GET /metrics"""
        body = self._state.metrics.render(await self._stats())
        return Response(body, headers={"content-type": CONTENT_TYPE})

    async def _stats(self) -> dict[str, EngineStats]:
        """Of all engines that answer."""
        found: dict[str, EngineStats] = {}
        for model in self._state.runtime.loaded():
            self._state.metrics.model(model.name, model.plan)
            try:
                found[model.name] = await asyncio.wait_for(model.client.stats(), STATS_TIMEOUT_S)
            except (PagemillError, asyncio.TimeoutError):
                continue  # its series end, which is what dashboards alert on
        return found


async def make_a_token(model: ServedModel) -> None:
    """Run the shortest possible request: a token, or a vector. Raises what the engine says when it
    cannot."""
    pools = bool(model.card.pooling)
    request = Request(
        id=f"ready-{secrets.token_hex(8)}",
        prompt=(0,),
        max_tokens=0 if pools else 1,
        pooled=pools,
        sampling=SamplingParams(temperature=0.0),
        cache_salt="ready",
        priority=_FIRST,
    )
    async for delta in model.client.generate(request):
        if delta.finish == "error":
            raise Unavailable(delta.error or "The engine failed.")
