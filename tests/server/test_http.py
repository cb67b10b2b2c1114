"""HTTP itself: routes, methods, sizes, broken requests, ids and log lines."""

import asyncio
import gzip
import logging

import pytest
from starlette.routing import Route

from pagemill.server import connection
from pagemill.server.app import create_app
from tests.server.conftest import Live, Start, until
from tests.server.fakes import FakeModel, FakeRuntime, http_config
from tests.server.raw import exchange, status_of

GET = "GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/models/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/", 404),
    ],
)
async def test_wrong_routes(live: Live, method: str, path: str, status: int) -> None:
    answer = await live.http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert status != 405 or answer.headers["allow"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_wrong_content_type(live: Live, kind: str) -> None:
    headers = {"content-type": kind}
    answer = await live.http.post("/v1/completions", content=b'{"prompt":"a"}', headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"


async def test_compressed_bodies(live: Live) -> None:
    headers = {"content-encoding": "gzip"}
    answer = await live.http.post("/tokenize", content=gzip.compress(b"{}"), headers=headers)
    assert answer.status_code == 415


async def test_large_bodies(start: Start) -> None:
    live = await start(max_body_bytes=1000)
    declared = await exchange(live.port, f"{POST}Content-Length: 1001\r\n")
    assert status_of(declared) == 413  # before any of it was sent
    absurd = await exchange(live.port, f"{POST}Content-Length: 99999999999999999\r\n")
    assert status_of(absurd) == 413
    piece = b"64\r\n" + b"a" * 100 + b"\r\n"
    chunked = await exchange(live.port, f"{POST}Transfer-Encoding: chunked\r\n", piece * 11)
    assert status_of(chunked) == 413
    assert b"body_too_large" in chunked
    assert not live.engine.requests


@pytest.mark.parametrize(
    "head",
    [
        f"{GET}X: {'a' * 70_000}\r\n",
        GET + "".join(f"X-{i}: y\r\n" for i in range(300)),
        f"GET /{'a' * 70_000} HTTP/1.1\r\nHost: localhost\r\n",
        f"{GET}{'X' * 70_000}",
    ],
)
async def test_large_heads(live: Live, head: str) -> None:
    answer = await exchange(live.port, head)
    assert status_of(answer) == 431
    assert b"headers_too_large" in answer


@pytest.mark.parametrize(
    "head",
    [
        f"{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        f"{POST}Content-Length: 5\r\nContent-Length: 6\r\n",
        f"{POST}Content-Length: -5\r\n",
        f"{POST}Transfer-Encoding: xchunked\r\n",
        f"{GET}X Y: z\r\n",
        f"{GET}X\x00Y: z\r\n",
        f"{GET}X: a\r\n folded\r\n",
        "GET /health HTTP/9.9\r\nHost: localhost\r\n",
        "NONSENSE\r\n",
    ],
)
async def test_broken_requests(live: Live, head: str) -> None:
    answer = await exchange(live.port, head, b"0\r\n\r\n")
    assert status_of(answer) == 400
    assert b'"error"' in answer


async def test_a_slow_head_is_cut(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.1)
    _, idle = await asyncio.open_connection("127.0.0.1", live.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"GET /health HTT")
    assert status_of(await asyncio.wait_for(reader.read(), 2)) == 408
    assert live.server is not None
    connections = live.server.server_state.connections
    await until(lambda: not connections)
    writer.close()
    idle.close()


async def test_too_many_connections(start: Start) -> None:
    live = await start(max_connections=3)
    pairs = [await asyncio.open_connection("127.0.0.1", live.port) for _ in range(3)]
    assert status_of(await exchange(live.port, GET)) == 503
    for _, writer in pairs:
        writer.close()
    assert live.server is not None
    connections = live.server.server_state.connections
    await until(lambda: not connections)
    assert status_of(await exchange(live.port, GET)) == 200


async def test_pipelined_requests(live: Live) -> None:
    answer = await exchange(live.port, f"{GET}\r\n" * 100 + GET)
    assert answer.count(b"HTTP/1.1 200") == 101


async def test_request_ids(live: Live) -> None:
    given = await live.http.get("/health", headers={"x-request-id": "abc.DEF-1_2"})
    assert given.headers["x-request-id"] == "abc.DEF-1_2"
    for bad in ("a b", "a" * 129, "é".encode(), "a/b", ""):
        answer = await live.http.get("/health", headers=[(b"x-request-id", _bytes(bad))])
        assert len(answer.headers["x-request-id"]) == 24
    assert "x-request-id" in (await live.http.get("/nothing")).headers
    assert "x-request-id" in (await live.chat(stream=True)).headers


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


async def test_one_client_id_twice_at_once(live: Live) -> None:
    headers = {"x-request-id": "same"}

    async def ask(prompt: str) -> str:
        body = {"prompt": prompt, "echo": True, "max_tokens": 5}
        answer = await live.http.post("/v1/completions", json=body, headers=headers)
        return str(answer.json()["choices"][0]["text"])

    assert await asyncio.gather(ask("one"), ask("two")) == ["oneParis", "twoParis"]


async def test_log_lines(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("pagemill").setLevel("INFO")
    try:
        await live.http.get("/a%0d%0aforged%1b%5b31m%e2%80%a8", headers={"x-request-id": "id-7"})
        await live.chat("a private text")
    finally:
        logging.getLogger("pagemill").setLevel("ERROR")
    lines = [record.getMessage() for record in caplog.records if record.name == "pagemill.access"]
    assert len(lines) == 2
    assert 'GET /a\\r\\nforged\\x1b[31m\\u2028" 404' in lines[0]
    assert lines[0].endswith("id=id-7")
    assert "private" not in caplog.text


async def test_descriptions(live: Live) -> None:
    described = (await live.http.get("/openapi.json")).json()
    chat = described["paths"]["/v1/chat/completions"]["post"]
    assert "messages" in chat["requestBody"]["content"]["application/json"]["schema"]["properties"]
    app = create_app(FakeRuntime(FakeModel()), http_config())
    served = {route.path.replace(":path", "") for route in app.routes if isinstance(route, Route)}
    assert served - {"/openapi.json", "/docs"} == set(described["paths"])
    page = await live.http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert all(f"<code>POST {path}</code>" in page.text for path in ("/classify", "/v2/rerank"))
    assert "repetition_penalty" in page.text
    assert "://" not in page.text  # it is whole without a network
