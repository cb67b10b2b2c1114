"""Which package index a pull uses, secrets, and that looking costs no HTTP client."""

import subprocess
import sys
from pathlib import Path

import pytest

import pagemill.hub as hub
from pagemill.errors import ConfigError
from pagemill.hub.remotes import PYPI, Remotes, Timing, pip_index_url
from pagemill.hub.web import Web


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
