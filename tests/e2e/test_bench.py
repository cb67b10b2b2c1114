"""`pagemill bench` on real servers with the tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.serving import PACKAGES, Serving

SMALL = ["--concurrency", "1,3", "--requests", "3", "--prompt-tokens", "40", "--output-tokens", "8"]


def bench(folder: Path, *arguments: str | Path) -> Any:
    """Run a command to its end; the figures it writes."""
    file = folder / "figures.json"
    env = {name: value for name, value in os.environ.items() if "PAGEMILL" not in name}
    env |= {"PAGEMILL_HOME": str(folder), "PYTHONPATH": str(PACKAGES)}
    command = [sys.executable, "-m", "pagemill", "bench", *map(str, arguments)]
    done = subprocess.run(
        [*command, "--json", str(file)],
        check=False,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def test_a_running_server(server: Serving, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.port}"
    read = bench(tmp_path, "serve", url, *SMALL)
    assert read["servers"][0]["software"].startswith("Pagemill ")
    assert read["servers"][0]["tokens_per_word"] > 1  # its tokens are bytes
    for run in read["runs"]:
        summary = run["summary"]
        assert (summary["good"], summary["counted"], summary["other_length"]) == (3, "usage", 0)
        assert summary["output_tokens"] == 24 and 60 <= summary["prompt_tokens"] <= 180


def test_chat_and_a_server_of_its_own_in_turns(
    server: Serving, tiny_llama_path: Path, tmp_path: Path
) -> None:
    url = f"running=http://127.0.0.1:{server.port}"
    options = ["--rounds", "2", "--api", "chat", "--warmup", "0"]
    read = bench(tmp_path, "compare", url, f"own={tiny_llama_path}", *SMALL, *options)
    assert [made["name"] for made in read["servers"]] == ["running", "own"]
    assert {made["api"] for made in read["servers"]} == {"OpenAI chat completions"}
    assert [run["server"] for run in read["runs"]] == ["running", "own"] * 4
    assert all(standing["good"] == 6 for standing in read["standings"])


def test_starts(tiny_llama_path: Path, tmp_path: Path) -> None:
    read = bench(tmp_path, "startup", tiny_llama_path, "--runs", "2")
    assert len(read["starts"]) == 2
    for start in read["starts"]:
        assert 0 < start["listening"] < start["first_token"] < 60
        memory = start["memory"]
        assert memory["processes"] >= 2
        assert 20 << 20 < memory["proportional"] <= memory["resident"]
