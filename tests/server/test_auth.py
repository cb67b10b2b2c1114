"""With a key set, every route of the live table needs it, however path or method are bent."""

import asyncio
import re

import pytest

from pagemill.server.app import create_app
from pagemill.server.auth import KeyRing
from tests.server.conftest import Live, Start
from tests.server.fakes import FakeModel, FakeRuntime, http_config
from tests.server.raw import exchange, status_of

KEYS = ("first-key-0123456789-0123456789-aaaa", "first-key-0123456789-0123456789-bbbb")


def live_table() -> list[tuple[str, str]]:
    app = create_app(FakeRuntime(FakeModel()), http_config())
    table: list[tuple[str, str]] = []
    for route in app.routes:
        path = re.sub(r"\{[^}]*\}", "tiny", getattr(route, "path", ""))
        table += [(method, path) for method in sorted(getattr(route, "methods", None) or ["GET"])]
    return table


def test_the_table_is_whole() -> None:
    assert len(live_table()) >= 13


async def test_every_route_needs_a_key(start: Start) -> None:
    live = await start(api_key=KEYS)
    for method, path in live_table():
        for verb in {method, "HEAD", "OPTIONS", "DELETE"}:
            answer = await live.http.request(verb, path)
            if path == "/health":
                assert answer.status_code != 401
            else:
                assert answer.status_code == 401, (verb, path)
                assert verb == "HEAD" or answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "target",
    [
        *("//v1/models", "/v1/../v1/models", "/%76%31/models", "/V1/models", "/v1/models/"),
        *("/v1/models;x", "/%2576%2531/models", "/health/../v1/models", "/health%2f..%2fv1/models"),
        *("/health?/v1/models", "//health", "/health/", "/health;", "/openapi.json", "/docs"),
        "http://127.0.0.1/v1/models",
    ],
)
async def test_bent_paths(start: Start, target: str) -> None:
    live = await start(api_key=KEYS)
    for host in ("127.0.0.1", "localhost/?", "localhost#", "localhost/health?"):
        answer = await exchange(live.port, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n")
        public = target.partition("?")[0] == "/health" and host == "127.0.0.1"
        assert b'"object"' not in answer
        assert status_of(answer) == (200 if public else 403 if host != "127.0.0.1" else 401)


async def test_override_headers_do_not_help(start: Start) -> None:
    live = await start(api_key=KEYS)
    for name in ("X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Forwarded-Prefix"):
        answer = await live.http.get("/v1/models", headers={name: "/health"})
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("authorization", f"Bearer {KEYS[0]}")], 200),
        ([("authorization", f"bearer  {KEYS[1]}")], 200),
        ([("x-api-key", KEYS[0])], 200),
        ([("authorization", "Bearer none"), ("x-api-key", KEYS[0])], 200),
        ([("authorization", f"Basic {KEYS[0]}")], 401),
        ([("authorization", KEYS[0])], 401),
        ([("authorization", "Bearer")], 401),
        ([("authorization", f"Bearer {KEYS[0][:-1]}")], 401),
        ([("authorization", f"Bearer {KEYS[0]}"), ("authorization", f"Bearer {KEYS[1]}")], 401),
        ([("x-api-key", "schlüssel".encode())], 401),
        ([("x-api-key", "k" * 60_000)], 401),
        ([], 401),
    ],
)
async def test_credentials(
    start: Start, headers: list[tuple[str, str | bytes]], status: int
) -> None:
    live = await start(api_key=KEYS)
    raw = [(n.encode(), v if isinstance(v, bytes) else v.encode()) for n, v in headers]
    assert (await live.http.get("/v1/models", headers=raw)).status_code == status


async def test_a_key_in_the_query_is_no_key(start: Start) -> None:
    live = await start(api_key=KEYS)
    assert (await live.http.get(f"/v1/models?api_key={KEYS[0]}")).status_code == 401


def test_keys_with_a_common_start_are_two_identities() -> None:
    ring = KeyRing(KEYS)
    found = {ring.identity([(b"x-api-key", key.encode())]) for key in KEYS}
    assert len(found) == 2
    assert None not in found


def test_an_empty_key_is_no_key() -> None:
    assert not KeyRing(("",))


async def test_the_openai_client_with_a_key(start: Start) -> None:
    live: Live = await start(api_key=KEYS)
    models = await asyncio.wait_for(live.openai(KEYS[1]).models.list(), 5)
    assert models.data[0].id == "tiny"
