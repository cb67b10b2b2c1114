"""Which addresses a pull may go to, which index it uses, and that looking costs no HTTP client."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import pagemill.hub as hub
from pagemill.errors import ConfigError, DownloadError, InvalidRequest
from pagemill.hub.remotes import PYPI, Remotes, Timing, pip_index_url
from pagemill.hub.store import Store
from pagemill.hub.web import Web


def resolving_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (address, 443))])


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://pypi.org/simple", "https://pypi.org/other"),
        ("https://pypi.org/simple", "https://pypi.org:443/other"),
        ("https://pypi.org/simple", "https://files.pythonhosted.org/packages/x.whl"),
        ("https://huggingface.co", "https://cas-bridge.xethub.hf.co/x?sig=1"),
        ("http://index.test", "https://index.test/x"),
        ("https://index.test", "https://files.index.test/x"),
        ("http://10.0.0.1:3141/root", "http://10.0.0.1:3141/files/x"),
    ],
)
def test_allowed(monkeypatch: pytest.MonkeyPatch, base: str, url: str) -> None:
    resolving_to(monkeypatch, "151.101.0.223")
    Web(base, timing=Timing()).check(httpx.URL(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://pypi.org/x", "http://files.pythonhosted.org/x", "https://pypi.org:8443/x",
        "https://evil.test/x", "https://pythonhosted.org.evil.test/x", "https://notpypi.org/",
        "https://127.0.0.1/x", "https://[::1]/x", "https://0/x", "file:///etc/hostname", "ftp://x/",
        "https://pypi.org@evil.test/", "https://evil.test#@pypi.org/", "//evil.test/x", "data:,x",
    ],
)  # fmt: skip
def test_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    resolving_to(monkeypatch, "151.101.0.223")
    with pytest.raises(DownloadError, match="refused"):
        Web("https://pypi.org/simple", timing=Timing()).check(httpx.URL(url))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "fe80::1%lo"]
)
def test_a_file_host_that_resolves_to_this_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    resolving_to(monkeypatch, address)
    with pytest.raises(DownloadError, match="this machine"):
        Web("https://pypi.org/simple", timing=Timing()).check(
            httpx.URL("https://files.pythonhosted.org/x")
        )


@pytest.mark.parametrize(
    "url", ["file:///srv/index", "pypi.org/simple", "", "http://", "http://x:port"]
)
def test_an_index_that_is_no_web_address(url: str) -> None:
    with pytest.raises(ConfigError):
        Web(url, timing=Timing())


def test_the_index_is_the_one_of_pip(tmp_path: Path) -> None:
    first, second, bad = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    first.write_text("[global]\nindex-url = https://one.test/100%/simple\n")
    second.write_text("[global]\nextra-index-url = file:///a file:///b\n[install]\nx=1\n")
    bad.write_bytes(b"\xff\xfe not an ini file")
    absent = tmp_path / "4"
    assert pip_index_url({}, [first, second, bad, absent]) == "https://one.test/100%/simple"
    assert pip_index_url({}, [second, absent]) == PYPI
    second.write_text("no section\n")
    assert pip_index_url({}, [second]) == PYPI
    second.write_text("[global]\nindex-url = file:///srv/index\n")
    assert pip_index_url({}, [first, second]) == "https://one.test/100%/simple"
    env = {"PIP_INDEX_URL": "https://env.test/simple"}
    assert pip_index_url(env, [first]) == "https://env.test/simple"
    env = {"HOME": str(tmp_path / "nobody"), "PIP_CONFIG_FILE": str(first)}
    assert pip_index_url(env) == "https://one.test/100%/simple"


def test_secrets_are_not_printed() -> None:
    shown = repr(Remotes(index_url="https://me:pw@x.test/simple", hf_token="hf_abc"))
    assert "pw" not in shown
    assert "hf_abc" not in shown


def test_looking_into_the_store_loads_no_http_client(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import pagemill.hub as hub, pagemill.hub.download\n"
        f"hub.resolve('smollm2', hub.Store(Path({str(tmp_path)!r})))\n"
        "print([m for m in ('httpx', 'numpy', 'ssl') if m in sys.modules])"
    )
    root = Path(hub.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_resolve(tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    file = tmp_path / "x.gguf"
    assert hub.resolve(str(file), store) is None
    file.write_bytes(b"GGUF")
    model = hub.resolve(str(file), store)
    assert model is not None
    assert (model.path, model.size, model.digest) == (file.resolve(), 4, "")
    assert hub.resolve("smollm2", store) is None
    with pytest.raises(InvalidRequest):
        hub.resolve(str(file), store, allow_files=False)
