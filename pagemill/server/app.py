"""The HTTP application: which path is answered by whom, behind which layers, from start to stop.

Owns routes and lifespan only. It must not know what a body means (the dialects do), how text
becomes tokens, or that engines are processes. A new dialect is a new routes class and its lines in
the tables below.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pagemill.config import HttpConfig
from pagemill.errors import PagemillError
from pagemill.server.access import Access
from pagemill.server.admin import Admin
from pagemill.server.auth import Auth, KeyRing
from pagemill.server.bodies import json_response
from pagemill.server.classify import ClassifyRoutes
from pagemill.server.embeddings import EmbeddingRoutes
from pagemill.server.errors import error_response, from_starlette
from pagemill.server.limits import Limits
from pagemill.server.openai_routes import OpenAIRoutes
from pagemill.server.origin import OriginGuard
from pagemill.server.ports import ModelRuntime
from pagemill.server.probes import Probes
from pagemill.server.rerank import RerankRoutes
from pagemill.server.state import ServerState

log = logging.getLogger("pagemill.server")

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(runtime: ModelRuntime, http: HttpConfig, preload: Sequence[str] = ()) -> Starlette:
    """The application; `app.state.server` is its `ServerState`.

    Models named in `preload` are loaded after the start; until then /ready answers 503.
    """
    state = ServerState(runtime, http)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        state.preloading = set(preload)
        loading = asyncio.create_task(_preload(state, preload))
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await runtime.close()

    app = Starlette(
        routes=[
            _Route(path, endpoint, methods=[method]) for method, path, endpoint in _table(state)
        ],
        exception_handlers={PagemillError: _pagemill_error, HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.state.server = state
    app.router.redirect_slashes = False
    # The last one added is the outermost.
    app.add_middleware(Limits, state=state, max_body_bytes=http.max_body_bytes)
    app.add_middleware(Auth, keys=KeyRing(http.api_key))
    app.add_middleware(
        OriginGuard, host=http.host, allowed_hosts=http.allowed_hosts, origins=http.allowed_origins
    )
    app.add_middleware(Access, state=state)
    return app


def _table(state: ServerState) -> list[tuple[str, str, Endpoint]]:
    openai, probes, admin = OpenAIRoutes(state), Probes(state), Admin(state)
    ranks, classes = RerankRoutes(state), ClassifyRoutes(state)
    posts: dict[str, Endpoint] = {
        "/v1/chat/completions": openai.chat,
        "/v1/completions": openai.completions,
        "/v1/embeddings": EmbeddingRoutes(state).embeddings,
        **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), ranks.rerank),
        **dict.fromkeys(("/score", "/v1/score"), ranks.score),
        "/classify": classes.classify,
        "/pooling": classes.pooling,
        "/tokenize": openai.tokenize,
        "/detokenize": openai.detokenize,
        "/pagemill/unload": admin.unload,
    }
    gets: dict[str, Endpoint] = {
        "/v1/models": openai.models,
        "/v1/models/{model_id:path}": openai.one_model,
        "/health": probes.health,
        "/ready": probes.ready,
        "/version": probes.version,
        "/load": probes.load,
        "/metrics": probes.metrics,
        "/pagemill/models": admin.models,
        "/openapi.json": _description,
        "/docs": _page,
    }
    return [
        (method, path, endpoint)
        for method, table in (("POST", posts), ("GET", gets))
        for path, endpoint in table.items()
    ]


class _Route(Route):
    """A route that leaves itself in the scope: requests are counted by its pattern."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        await super().handle(scope, receive, send)


async def _description(request: Request) -> Response:
    """GET /openapi.json"""
    from pagemill.server.api_docs import document  # few ask, and every start would wait for it

    return json_response(document())


async def _page(request: Request) -> Response:
    """GET /docs"""
    from pagemill.server.api_docs import document
    from pagemill.server.api_page import page

    return HTMLResponse(page(document()))


async def _preload(state: ServerState, names: Sequence[str]) -> None:
    for name in names:
        try:
            await state.runtime.model(name)
        except PagemillError as error:
            log.error("cannot load %s: %s", name, error.message)
            state.preload_error = f"Loading {name} failed: {error.message}"
        state.preloading.discard(name)


async def _pagemill_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PagemillError)
    return error_response(error, close=error.status in (408, 413))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = error_response(from_starlette(error))
    response.headers.update(error.headers or {})
    return response
