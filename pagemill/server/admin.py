"""What `pagemill ps` and `pagemill stop` ask: the models in memory, and to let one go."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from pagemill.errors import PagemillError, UnknownModel
from pagemill.server.bodies import json_response, read_fields
from pagemill.server.orders import MAX_NAME
from pagemill.server.ports import ServedModel
from pagemill.server.probes import STATS_TIMEOUT_S
from pagemill.server.state import ServerState
from pagemill.types import EngineStats


class Admin:
    """The endpoints, bound to one server."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def models(self, request: Request) -> Response:
        """GET /pagemill/models: one row per loaded model."""
        rows = [await _row(model) for model in self._state.runtime.loaded()]
        return json_response({"models": rows})

    async def unload(self, request: Request) -> Response:
        """POST /pagemill/unload {"model": name}: stop its engine and give the memory back."""
        name = (await read_fields(request)).string("model", "", MAX_NAME)
        loaded = [model.name for model in self._state.runtime.loaded()]
        if name not in loaded:
            names = ", ".join(loaded) or "none"
            raise UnknownModel(f"{name!r} is not loaded; loaded: {names}.", param="model")
        await self._state.runtime.unload(name)
        return json_response({"unloaded": name})


async def _row(model: ServedModel) -> dict[str, object]:
    """Zeros for an engine that does not answer now: the others are still worth showing."""
    try:
        stats = await asyncio.wait_for(model.client.stats(), STATS_TIMEOUT_S)
    except (PagemillError, asyncio.TimeoutError):
        stats = EngineStats()
    plan = model.plan
    return {
        "name": model.name,
        "size": stats.memory_bytes or model.card.weights_bytes + plan.kv_bytes,
        "backend": plan.backend,
        "context": plan.max_model_len,
        "running": stats.running,
        "waiting": stats.waiting,
        "pages_used": stats.pages_used,
        "pages_total": stats.pages_total,
    }
