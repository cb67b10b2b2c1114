"""serve: whatever is wrong is said before anything slow begins."""

import asyncio
import gc
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.applications import Starlette

from pagemill.cli.serve import check_settings, serve
from pagemill.config import EngineConfig, HttpConfig, HubConfig, Settings
from pagemill.errors import ConfigError

from .test_app import in_a_process


def test_a_port_in_use_is_one_line_and_code_2_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        started = time.monotonic()
        done = in_a_process("serve", "--port", port, PAGEMILL_HOME=str(tmp_path))
    assert done.returncode == 2 and time.monotonic() - started < 2
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1 port {port}: {os.strerror(98)}; "
        "choose another with --port\n"
    )


def test_a_public_address_needs_a_key() -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        check_settings(Settings(http=HttpConfig(host="0.0.0.0", port=0)))
    check_settings(Settings(http=HttpConfig(host="0.0.0.0", port=0, api_key=("k",))))


def test_check_reads_everything_and_loads_nothing(tmp_path: Path, tiny_llama_path: Path) -> None:
    home = {"PAGEMILL_HOME": str(tmp_path)}
    done = in_a_process("serve", str(tiny_llama_path), "--check", "--port", "0", **home)
    assert done.returncode == 0, done.stderr
    assert "llama, 109K parameters, F32" in done.stdout
    assert "  context   512 tokens\n" in done.stdout
    assert done.stdout.endswith("All is in order.\n")


def test_what_is_said_once_it_listens(
    tmp_path: Path,
    tiny_llama_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(app: Starlette, http: HttpConfig, on_listening: Callable[[str], None]) -> None:
        on_listening("http://here")
        asyncio.run(app.state.server.runtime.close())

    monkeypatch.setattr("pagemill.server.serve.run", run)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    settings = Settings(EngineConfig(backend="reference"), HttpConfig(port=0))
    try:
        serve([str(tiny_llama_path)], replace(settings, hub=HubConfig(tmp_path)), preload=False)
        assert gc.isenabled()
    finally:
        gc.unfreeze()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Pagemill serves at http://here (OpenAI's API: http://here/v1)"
    assert said[1].endswith(": llama, 109K parameters, F32")
    assert all(line.startswith("  ") for line in said[2:])  # of this model and no other


def test_an_unreadable_model_and_a_plan_that_does_not_fit_have_code_2(
    tmp_path: Path, tiny_llama_path: Path
) -> None:
    home = {"PAGEMILL_HOME": str(tmp_path)}
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no model")
    done = in_a_process("serve", str(bad), "--port", "0", **home)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: 'bad.gguf': header")
    asked = ["--max-model-len", "9999", "--port", "0"]
    done = in_a_process("serve", str(tiny_llama_path), *asked, **home)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: max_model_len is 9999; it must be in 1..512")


def test_a_broken_template_has_code_2_and_its_line(tmp_path: Path, tiny_llama_path: Path) -> None:
    template = tmp_path / "my.jinja"
    template.write_text("{% for m in messages %}\n{{ m.content }\n")
    asked = ["--chat-template", str(template), "--check", "--port", "0"]
    done = in_a_process("serve", str(tiny_llama_path), *asked, PAGEMILL_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"error: --chat-template {template}: line 2: unexpected '}}'\n"
