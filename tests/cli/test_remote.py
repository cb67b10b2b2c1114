"""A running server, seen from the command line: answers, refusals, addresses."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pagemill.cli.manage import ps_table
from pagemill.cli.remote import Served, Server, ServerTalker
from pagemill.cli.talk import TALKING, Ending, Knobs, Turn
from pagemill.config import HttpConfig
from pagemill.errors import ConfigError, ContextTooLong, EngineFailure, Unavailable, UnknownModel

MODEL = {"id": "tiny", "object": "model", "owned_by": "pagemill", "max_model_len": 64}
LOADED = {
    "name": "tiny",
    "size": 2_000_000,
    "backend": "cpu",
    "context": 64,
    "running": 1,
    "waiting": 2,
    "pages_used": 1,
    "pages_total": 4,
    "a_field_of_tomorrow": True,
}


def chunk(text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text} if text else {}, "finish_reason": finish}]}


USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}


class Script(BaseHTTPRequestHandler):
    """Answers chat with the events in `server.events`, or with `server.refusal`."""

    server: "ScriptServer"

    def do_GET(self) -> None:
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            self.reply(401, {"error": {"message": "no key"}})
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [MODEL]})
        else:
            self.reply(200, {"models": [LOADED]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        if self.server.refusal:
            status, code = self.server.refusal
            self.reply(status, {"error": {"message": "refused", "code": code}})
            return
        self.send_response(200)
        self.end_headers()
        for event in self.server.events:
            self.wfile.write(b": ping\n\ndata: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def reply(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Tests print nothing."""


class ScriptServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Script)
        self.bodies: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = [chunk("Hel"), chunk("lo"), chunk(None, "stop"), USAGE]
        self.refusal: tuple[int, str] | None = None
        self.key = ""


@pytest.fixture
def script() -> Iterator[ScriptServer]:
    with ScriptServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def at(script: ScriptServer, key: str = "") -> Server:
    return Server.at(f"http://127.0.0.1:{script.server_port}/v1", key)


def talk(script: ScriptServer) -> list[str | Ending]:
    server = at(script)
    [served] = server.models()
    return list(ServerTalker(server, served).answer([Turn("user", "hi")], Knobs(seed=7)))


def test_streams_an_answer_and_sends_what_was_asked(script: ScriptServer) -> None:
    *texts, ending = talk(script)
    assert texts == ["Hel", "lo"]
    assert isinstance(ending, Ending)
    assert (ending.finish, ending.prompt_tokens, ending.answer_tokens, ending.cached_tokens) == (
        "stop",
        9,
        2,
        4,
    )
    [body] = script.bodies
    assert body["model"] == "tiny" and body["stream"] is True and body["seed"] == 7
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert body["sampling_defaults"] == TALKING and "temperature" not in body


def test_other_servers_are_sent_fields_that_they_know(script: ScriptServer) -> None:
    served = Served("tiny", "someone", None)
    list(ServerTalker(at(script), served).answer([Turn("user", "hi")], Knobs(top_p=0.5)))
    [body] = script.bodies
    assert (body["temperature"], body["top_p"]) == (0.3, 0.5)
    assert "sampling_defaults" not in body


def test_refusals_become_our_errors(script: ScriptServer) -> None:
    script.refusal = (400, "context_length_exceeded")
    with pytest.raises(ContextTooLong, match="refused"):
        talk(script)
    script.refusal = (404, "model_not_found")
    with pytest.raises(UnknownModel, match="refused"):
        talk(script)


def test_an_error_in_the_stream_and_a_broken_stream(script: ScriptServer) -> None:
    script.events = [chunk("Hel"), {"error": {"message": "it died"}}]
    with pytest.raises(EngineFailure, match="it died"):
        talk(script)
    script.events = [chunk("Hel")]
    with pytest.raises(EngineFailure, match="broke off"):
        talk(script)


def test_a_missing_key_is_said_plainly(script: ScriptServer) -> None:
    script.key = "secret"
    with pytest.raises(ConfigError, match="set PAGEMILL_API_KEY"):
        at(script).models()
    assert at(script, "secret").models()[0].name == "tiny"


def test_rows_of_ps(script: ScriptServer) -> None:
    assert ps_table(at(script).loaded()) == (
        "NAME    SIZE      PROCESSOR    CONTEXT    RUNNING    WAITING    KV CACHE\n"
        "tiny    2.0 MB    cpu          64         1          2          25% used"
    )


def test_nobody_there() -> None:
    server = Server.chosen(HttpConfig(host="0.0.0.0", port=1))
    assert server.url == "http://127.0.0.1:1"
    assert not server.listens()
    with pytest.raises(Unavailable, match="no answer from the server at http://127"):
        server.models()


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("localhost:9000", "http://localhost:9000"),
        ("http://host/v1/", "http://host:80"),
        ("https://host/llm/v1", "https://host:443/llm"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_urls_as_people_write_them(url: str, meant: str) -> None:
    assert Server.at(url, "").url == meant


@pytest.mark.parametrize("url", ["ftp://host", "http://", "host:port", "http://host:99999"])
def test_a_wrong_url_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="--url"):
        Server.at(url, "")
