"""The process: addresses it refuses, and how it stops."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from pagemill.errors import ConfigError
from pagemill.server.address import bind, check_exposure
from tests.server.fakes import http_config


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", ""])
def test_a_public_address_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match=r"--api-key.*--allow-public"):
        check_exposure(http_config(host=host))
    check_exposure(http_config(host=host, api_key=("k",)))
    check_exposure(http_config(host=host, allow_public=True))


def test_a_busy_port_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}: .*in use"):
            bind(http_config(port=port))


@contextmanager
def process(drain_s: float, delay: float) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "tests.server.serve_fake", str(drain_s), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip(), server
        finally:
            server.kill()


class Asking(threading.Thread):
    """A streaming call in the background."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.text = ""
        self.first = threading.Event()

    def run(self) -> None:
        body = {"prompt": "a", "stream": True, "max_tokens": 31, "ignore_eos": True}
        with httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=10) as answer:
            for piece in answer.iter_text():
                self.text += piece
                self.first.set()


def test_an_idle_server_stops_at_once() -> None:
    with process(30, 0) as (_, server):
        server.terminate()
        assert server.wait(3) == 0
        assert server.stdout is not None
        assert server.stdout.read() == "closed\n"


def test_answers_in_flight_finish_and_new_ones_are_refused() -> None:
    with process(10, 0.03) as (url, server):
        asking = Asking(url)
        asking.start()
        assert asking.first.wait(5)
        server.terminate()
        time.sleep(0.1)
        refused = httpx.get(f"{url}/v1/models")
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) > 0
        assert httpx.get(f"{url}/health").status_code == 200
        asking.join(5)
        assert server.wait(3) == 0
        assert asking.text.endswith("data: [DONE]\n\n")
        assert "error" not in asking.text


@pytest.mark.parametrize(("drain_s", "signals"), [(0.3, 1), (30, 2)])
def test_what_does_not_finish_ends_in_order(drain_s: float, signals: int) -> None:
    with process(drain_s, 0.5) as (url, server):
        asking = Asking(url)
        asking.start()
        assert asking.first.wait(5)
        for _ in range(signals):
            server.terminate()
            time.sleep(0.15)
        assert server.wait(4) == 0
        asking.join(2)
        assert '"code":"unavailable"' in asking.text
        assert asking.text.endswith("data: [DONE]\n\n")
        assert server.stdout is not None
        assert server.stdout.read() == "closed\n"
