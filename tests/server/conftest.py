"""A server on a real socket in the test's own event loop, in front of a fake engine."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from openai import AsyncOpenAI

from pagemill.server import serve
from pagemill.server.address import bind
from pagemill.server.app import create_app
from pagemill.server.state import ServerState
from tests.server.fakes import FakeEngine, FakeModel, FakeRuntime, http_config


@dataclass
class Live:
    """A running server and what is behind it."""

    url: str
    port: int
    state: ServerState
    engine: FakeEngine
    server: serve.DrainingServer | None
    http: httpx.AsyncClient

    def openai(self, api_key: str = "not-needed") -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0)

    async def post(self, path: str, **body: object) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def chat(self, text: str = "hi", **body: object) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        return await self.post("/v1/chat/completions", messages=messages, **body)


@asynccontextmanager
async def run_server(model: FakeModel, **settings: object) -> AsyncIterator[Live]:
    http = http_config(port=0, log_level="error", **settings)
    app = create_app(FakeRuntime(model), http)
    listener = bind(http)
    listening = asyncio.Event()
    server = serve.make_server(app, http, listener, lambda url: listening.set())
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await listening.wait()
    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield Live(url, port, app.state.server, model.client, server, client)
    finally:
        server.should_exit = True
        await task
        logging.getLogger("pagemill").setLevel(logging.NOTSET)  # no other test is to be silenced


Start = Callable[..., Awaitable[Live]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(model, **settings)` runs a server until the test ends."""
    async with AsyncExitStack() as stack:

        async def begin(model: FakeModel | None = None, **settings: object) -> Live:
            return await stack.enter_async_context(run_server(model or FakeModel(), **settings))

        yield begin


@pytest.fixture
async def live(start: Start) -> Live:
    """A server with default settings."""
    return await start()


@pytest.fixture
async def direct() -> AsyncIterator[Live]:
    """The application without a socket: faster, for what the connection does not matter to."""
    model = FakeModel()
    app = create_app(FakeRuntime(model), http_config())
    url = "http://127.0.0.1:8000"
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=url) as client:
        yield Live(url, 8000, app.state.server, model.client, None, client)


async def until(condition: Callable[[], bool], seconds: float = 2.0) -> None:
    """Wait until `condition` holds, or fail."""
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not so within {seconds} seconds")
