"""`pagemill bench` as a user types it, against scripted servers."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pagemill.cli.app import run_app
from tests.bench.fake import Script, fake

ROOT = Path(__file__).parents[2]
SMALL = ["--concurrency", "1,2", "--requests", "2", "--output-tokens", "4", "--prompt-tokens", "20"]


@contextmanager
def running(script: Script | None = None) -> Iterator[str]:
    """The URL of a fake server in a thread of its own."""
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with fake(script) as server:
            urls.append(server.url)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield urls[0]
    finally:
        stop.set()
        thread.join(10)


def test_one_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"r.{kind}" for kind in ("json", "csv", "html")}
    options = [text for kind, path in files.items() for text in (f"--{kind}", str(path))]
    with running() as url:
        assert run_app(["bench", "serve", url, *SMALL, "--slo", "ttft=10s", *options]) == 0
    shown, told = capsys.readouterr()
    assert "1 user     2/2" in shown and "good/s" in shown and "first token" in shown
    assert "2 users, 2 requests" in told
    read = json.loads(files["json"].read_text())
    assert [run["summary"]["output_tokens"] for run in read["runs"]] == [8, 8]
    assert (
        read["servers"][0]["software"] == "vLLM 9.9" and read["load"]["knobs"]["temperature"] == 0
    )
    assert len(files["csv"].read_text().splitlines()) == 5
    assert files["html"].read_text().startswith("<!DOCTYPE html>")


def test_two_servers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagemill.bench.measure.SETTLE_S", 0)
    with running() as one, running(Script(first=0.05)) as two:
        places = [f"fast={one}", f"slow={two}/v1#fake"]
        assert run_app(["bench", "compare", *places, *SMALL, "--rounds", "2", "--quiet"]) == 0
    shown, told = capsys.readouterr()
    assert told == "" and shown.startswith("fast and slow\n")
    assert "Medians of 2 rounds" in shown and "No lines cross" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-tokens", "x"], "--prompt-tokens must be a number, a range"),
        (["--concurrency", "0"], "--concurrency must be numbers over 0"),
        (["--slo", "x=1ms"], "--slo takes ttft, tpot, e2e"),
        (["--extra", "[]"], "--extra must be an object"),
        (["--extra", "{"], "--extra is not JSON"),
        (["--shared-prefix", "100"], "--shared-prefix must be less than the shortest prompt"),
        (["--html", "/no/such/folder/x.html"], "cannot be written"),
        (["--api", "soap"], "--api must be auto, completions"),
        (["--model", "other"], "has no model 'other'; it has: fake"),
    ],
)
def test_what_makes_no_sense(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as url:
        assert run_app(["bench", "serve", url, "--quiet", *arguments]) == 2
    shown, told = capsys.readouterr()
    assert shown == "" and told.startswith("error: ") and message in told


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as url:
        pass
    assert run_app(["bench", "serve", url]) == 1
    assert f"nothing answers at {url}" in capsys.readouterr().err


def test_a_server_where_everything_fails(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script(refuse=lambda number: 500 if number > 2 else 0)  # after the first looks
    with running(script) as url:
        assert run_app(["bench", "serve", url, *SMALL, "--quiet"]) == 1
    assert "4 failed: HTTP 500: told to refuse" in capsys.readouterr().out


def test_servers_need_names_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with running() as url:
        assert run_app(["bench", "compare", url, url, "--quiet"]) == 2
        assert "two servers are called 127.0.0.1" in capsys.readouterr().err
        assert run_app(["bench", "compare", url]) == 2
        assert "at least two" in capsys.readouterr().err


def test_ctrl_c_tells_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    command = [sys.executable, "-m", "pagemill", "bench", "serve", "--json", str(file)]
    with running(Script(first=0.05)) as url:
        process = subprocess.Popen(
            [*command, url, "--concurrency", "1", "--requests", "100000"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        while "100000 requests" not in process.stderr.readline():
            assert process.poll() is None
        threading.Event().wait(0.5)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "1 user" in shown and "Stopped before its end" in shown
    read = json.loads(file.read_text())
    assert read["interrupted"] and read["runs"][0]["summary"]["good"] >= 1
