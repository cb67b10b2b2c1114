"""Which addresses a pull may go to: checked before connecting, and connected as checked."""

import socket
from collections.abc import Callable

import httpx
import pytest

from pagemill.errors import ConfigError, DownloadError
from pagemill.hub.remotes import Timing
from pagemill.hub.web import Web
from pagemill.hub.wire import proxy_of

FAST = Timing(attempts=1, backoff_s=0.001, stall_s=1.0)
PUBLIC = "151.101.0.223"
Resolving = Callable[..., list[str]]


@pytest.fixture
def resolving(monkeypatch: pytest.MonkeyPatch) -> Resolving:
    """Let every name resolve to given addresses, in turn; nothing is connected to, only noted."""

    def set_up(*answers: str) -> list[str]:
        turns = iter(answers)
        last = answers[-1]
        connected: list[str] = []

        def resolve(*_: object, **__: object) -> list[object]:
            address = next(turns, last)
            return [(0, 0, 0, "", (one, 443)) for one in address.split(",")]

        def connect(address: tuple[str, int], *_: object, **__: object) -> None:
            connected.append(f"{address[0]} {address[1]}")
            raise ConnectionRefusedError("not in a test")

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(socket, "create_connection", connect)
        return connected

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return set_up


def ask(base: str, url: str) -> str:
    """Why a GET failed: each does in these tests."""
    with Web(base, timing=FAST) as web, pytest.raises(DownloadError) as caught:
        web.document(url, "*/*", 100)
    return caught.value.message


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://pypi.org/simple", "https://pypi.org/other"),
        ("https://pypi.org/simple", "https://pypi.org:443/other"),
        ("https://pypi.org/simple", "https://files.pythonhosted.org/packages/x.whl"),
        ("https://huggingface.co", "https://cas-bridge.xethub.hf.co/x?sig=1"),
        ("https://hub.test", "https://bucket.s3.test/x"),
        ("http://index.test", "https://index.test/x"),
    ],
)
def test_public_hosts_are_connected_to_by_the_address_that_was_checked(
    resolving: Resolving, base: str, url: str
) -> None:
    # A second answer of the name server would lead home.
    connected = resolving(PUBLIC, "127.0.0.1")
    assert "not in a test" in ask(base, url)
    own = httpx.URL(base).host == httpx.URL(url).host and base.startswith("https")
    assert connected == [f"{httpx.URL(url).host} 443" if own else f"{PUBLIC} 443"]


@pytest.mark.parametrize(
    "base", ["http://10.0.0.1:3141/root", "http://127.0.0.1:81", "http://h:82"]
)
def test_the_origin_that_the_user_gave_may_be_anywhere(resolving: Resolving, base: str) -> None:
    connected = resolving("127.0.0.1")
    assert "not in a test" in ask(base, f"{base}/files/x")
    url = httpx.URL(base)
    assert connected == [f"{url.host} {url.port}"]


@pytest.mark.parametrize(
    "url",
    [
        "http://pypi.org/x", "http://files.pythonhosted.org/x", "https://pypi.org:8443/x",
        "https://127.0.0.1/x", "https://[::1]/x", "https://0/x", "https://0x7f.1/x", "ftp://x/",
        "https://127.0.0.1.:443/x", "https://[::ffff:10.0.0.1]/x", "https://[::]/x", "https:///x",
        "http://pypi.org:3141/x", "file:///etc/hostname", "//evil.test/x", "data:,x", "gopher://x/",
        "https://224.0.0.1/x", "https://[ff02::1]/x", "https://[2001:0:7f00:1::]/x", "https://x./x",
    ],
)  # fmt: skip
def test_refused_without_asking_anybody(resolving: Resolving, url: str) -> None:
    connected = resolving(PUBLIC)
    assert "refused" in ask("https://pypi.org/simple", url)
    assert connected == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "fe80::1%lo", "10.1.2.3", "fd00::1",
        "100.100.100.200", "::ffff:127.0.0.1", "64:ff9b::a00:1", f"{PUBLIC},192.168.0.1",
    ],
)  # fmt: skip
def test_a_name_that_resolves_to_a_private_address_is_refused(
    resolving: Resolving, address: str
) -> None:
    connected = resolving(address)
    assert "no public address: refused" in ask("https://pypi.org/simple", "https://evil.test/x")
    assert connected == []


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("198.18.0.7", True), ("203.0.113.80", True), ("10.0.0.9", True), ("127.0.0.1", False),
        ("169.254.1.1", False), ("0.0.0.0", False), ("::1", False), ("fd00::1", False),
    ],
)  # fmt: skip
def test_well_known_hosts_may_be_behind_a_gateway_but_not_here(
    resolving: Resolving, address: str, fine: bool
) -> None:
    connected = resolving(address)
    said = ask("https://pypi.org/simple", "https://files.pythonhosted.org/x")
    assert ("not in a test" in said) == fine
    assert ("refused" in said) == (not fine)
    assert connected == ([f"{address} 443"] if fine else [])


def test_every_address_of_a_host_is_tried(resolving: Resolving) -> None:
    connected = resolving(f"2606:4700::6810:84e5,{PUBLIC}")
    assert "not in a test" in ask("https://hub.test", "https://cdn.test/x")
    assert connected == ["2606:4700::6810:84e5 443", f"{PUBLIC} 443"]


def test_proxies_of_the_environment(resolving: Resolving, monkeypatch: pytest.MonkeyPatch) -> None:
    connected = resolving("127.0.0.1")
    monkeypatch.setenv("https_proxy", "proxy.test:3128")
    monkeypatch.setenv("no_proxy", "inside.test")
    assert proxy_of(httpx.URL("https://hub.test/x")) == "http://proxy.test:3128"
    assert proxy_of(httpx.URL("https://inside.test/x")) == ""
    assert proxy_of(httpx.URL("http://hub.test/x")) == ""
    # The proxy resolves names; what is an address by its spelling is still refused here.
    assert "not in a test" in ask("https://hub.test", "https://cdn.test/x")
    assert connected == ["proxy.test 3128"]
    assert "refused" in ask("https://hub.test", "https://0x7f000001/x")
    monkeypatch.setenv("https_proxy", "socks5://proxy.test:1")
    with Web("https://hub.test", timing=FAST) as web, pytest.raises(ConfigError, match="socks5"):
        web.document("https://hub.test/x", "*/*", 100)
    assert connected == ["proxy.test 3128"]
