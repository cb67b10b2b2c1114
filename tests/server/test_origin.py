"""Web pages and rebound names are kept off a loopback server, on every route."""

import pytest

from pagemill.server.address import is_loopback
from tests.server.conftest import Start
from tests.server.raw import exchange, status_of
from tests.server.test_auth import live_table


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("Host: localhost", 200),
        ("Host: LOCALHOST:1234", 200),
        ("Host: 127.0.0.1", 200),
        ("Host: [::1]:8000", 200),
        ("Host: my.lan", 200),
        ("Host: evil.example", 403),
        ("Host: localhost.evil.example", 403),
        ("Host: 127.0.0.1.nip.io", 403),
        ("Host: evil.example:8000", 403),
        ("Host: ", 403),
        ("X: y", 400),
        ("Host: localhost\r\nHost: evil.example", 400),
        ("Host: localhost\r\nOrigin: http://localhost", 200),
        ("Host: localhost\r\nOrigin: https://app.example", 200),
        ("Host: localhost\r\nOrigin: https://evil.example", 403),
        ("Host: localhost\r\nOrigin: http://localhost:3000", 403),
        ("Host: localhost\r\nOrigin: null", 403),
        ("Host: localhost\r\nOrigin: https://app.example\r\nOrigin: null", 400),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site", 403),
        ("Host: localhost\r\nSec-Fetch-Site: same-site", 403),
        ("Host: localhost\r\nSec-Fetch-Site: same-origin", 200),
        ("Host: localhost\r\nSec-Fetch-Site: none", 200),
    ],
)
async def test_hosts_and_origins(start: Start, lines: str, status: int) -> None:
    live = await start(allowed_hosts=("my.lan",), allowed_origins=("https://app.example/",))
    answer = await exchange(live.port, f"GET /health HTTP/1.1\r\n{lines}\r\n")
    assert status_of(answer) == status
    listed = "app.example" in lines and status == 200
    assert (b"access-control-allow-origin: https://app.example" in answer) == listed
    assert listed or b"access-control" not in answer


async def test_every_route_refuses_foreign_pages(start: Start) -> None:
    live = await start()
    for method, path in live_table():
        for verb in {method, "OPTIONS", "DELETE", "PATCH"}:
            headers = {"origin": "https://evil.example", "access-control-request-method": verb}
            answer = await live.http.request(verb, path, headers=headers)
            assert answer.status_code == 403, (verb, path)
            assert verb == "HEAD" or "origin_not_allowed" in answer.text
            rebound = await live.http.request(verb, path, headers={"host": "evil.example"})
            assert rebound.status_code == 403, (verb, path)


async def test_a_preflight_needs_no_key(start: Start) -> None:
    live = await start(api_key=("k",), allowed_origins=("https://app.example",))
    headers = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = await live.http.options("/v1/chat/completions", headers=headers)
    assert answer.status_code == 204
    assert "authorization" in answer.headers["access-control-allow-headers"]
    plain = await live.http.options("/v1/chat/completions")
    assert plain.status_code == 401


async def test_websockets_are_refused(start: Start) -> None:
    live = await start()
    head = (
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: x\r\nOrigin: https://evil.example\r\n"
    )
    answer = await exchange(live.port, head)
    assert status_of(answer) == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.com"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
