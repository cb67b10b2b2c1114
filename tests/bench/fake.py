"""A server that answers as it is told to: when tokens come, what it counts, what it refuses."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pagemill.bench.ask import Target
from pagemill.bench.servers import Place, examine

Body = dict[str, Any]


@dataclass
class Script:
    """How the fake behaves. Seconds."""

    first: float = 0.0
    gap: float = 0.0
    usage: bool = True
    tokens_per_word: int = 1
    longest: int = 10_000  # answers end there, whatever was asked for
    pieces_of: int = 1  # tokens that come in one piece
    cut_after: int | None = None  # pieces, then the connection closes
    error_after: int | None = None  # pieces, then an error record
    models: tuple[str, ...] = ("fake",)
    endpoints: tuple[str, ...] = ("/v1/completions", "/v1/chat/completions")
    unknown_fields: tuple[str, ...] = ()  # refused with 400
    key: str = ""
    refuse: Callable[[int], int] = lambda number: 0  # the status for the n-th request; 0: answer
    chunked: bool = True
    split: int = 0  # bytes that are sent at once; 0: whole records


@dataclass
class Fake:
    """A running one, and what it was sent."""

    url: str
    script: Script
    bodies: list[Body] = field(default_factory=list)
    active: int = 0
    most_active: int = 0

    async def target(self, name: str = "", **place: str) -> Target:
        """As the benchmark sees it."""
        found = await examine(Place(self.url, name, **place))
        self.bodies.clear()
        self.most_active = 0
        return found


@asynccontextmanager
async def fake(script: Script | None = None) -> AsyncIterator[Fake]:
    """A server on a free port while the context lasts."""
    made = Fake("", script or Script())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answer(made, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


async def _answer(made: Fake, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
    script = made.script
    if script.key and fields.get("authorization") != f"Bearer {script.key}":
        return _whole(writer, 401, {"error": {"message": "no key"}})
    if method == "GET":
        return _list(script, path, writer)
    body = json.loads(await reader.readexactly(int(fields["content-length"])))
    if path not in script.endpoints:
        return _whole(writer, 404, {"error": {"message": "no such endpoint"}})
    if wrong := [name for name in script.unknown_fields if name in body]:
        return _whole(writer, 400, {"error": {"message": f"unknown field {wrong[0]}"}})
    made.bodies.append(body)
    if status := script.refuse(len(made.bodies)):
        return _whole(writer, status, {"error": {"message": "told to refuse"}})
    made.active += 1
    made.most_active = max(made.most_active, made.active)
    try:
        await _stream(script, path, body, writer)
    finally:
        made.active -= 1
    return None


def _list(script: Script, path: str, writer: asyncio.StreamWriter) -> None:
    if path == "/v1/models" and script.endpoints[0].startswith("/v1"):
        rows = [{"id": name, "owned_by": "vllm"} for name in script.models]
        return _whole(writer, 200, {"data": rows})
    if path == "/api/tags" and script.endpoints[0].startswith("/api"):
        return _whole(writer, 200, {"models": [{"name": name} for name in script.models]})
    if path == "/version":
        return _whole(writer, 200, {"version": "9.9"})
    return _whole(writer, 404, {"detail": "not found"})


def _whole(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
    raw = json.dumps(body).encode()
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)


async def _stream(script: Script, path: str, body: Body, writer: asyncio.StreamWriter) -> None:
    coding = "Transfer-Encoding: chunked\r\n" if script.chunked else ""
    writer.write(f"HTTP/1.1 200 OK\r\n{coding}Content-Type: x\r\n\r\n".encode())

    async def send(record: bytes) -> None:
        raw = record if not script.chunked else b"%x\r\n%s\r\n" % (len(record), record)
        for at in range(0, len(raw), script.split or len(raw)):
            writer.write(raw[at : at + (script.split or len(raw))])
            await writer.drain()
            if script.split:
                await asyncio.sleep(0)

    ollama = path.startswith("/api")
    asked = body["options"]["num_predict"] if ollama else body["max_tokens"]
    tokens = min(asked, script.longest)
    pieces = -(-tokens // script.pieces_of)
    await asyncio.sleep(script.first)
    if path.endswith("completions") and "messages" in body:
        await send(_event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}))
    for number in range(pieces):
        if number:
            await asyncio.sleep(script.gap)
        if number == script.cut_after:
            return
        if number == script.error_after:
            await send(_event({"error": {"message": "the engine fell over"}}))
            return
        await send(_piece(path, body, last=number == pieces - 1))
    words = body.get("prompt") or body["messages"][0]["content"]
    prompt = script.tokens_per_word * len(words.split()) + 3
    if ollama:
        counts = {"prompt_eval_count": prompt, "eval_count": tokens} if script.usage else {}
        await send(json.dumps({"done": True, "done_reason": "length", **counts}).encode() + b"\n")
    else:
        if script.usage and "stream_options" in body:
            usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
            await send(_event({"choices": [], "usage": usage}))
        await send(b"data: [DONE]\n\n")
    if script.chunked:
        writer.write(b"0\r\n\r\n")


def _piece(path: str, body: Body, *, last: bool) -> bytes:
    if path == "/api/generate":
        return json.dumps({"response": "x", "done": False}).encode() + b"\n"
    if path == "/api/chat":
        return json.dumps({"message": {"content": "x"}, "done": False}).encode() + b"\n"
    text = {"delta": {"content": "x"}} if "messages" in body else {"text": "x"}
    return _event({"choices": [{**text, "finish_reason": "length" if last else None}]})


def _event(record: Any) -> bytes:
    return b"data: " + json.dumps(record).encode() + b"\n\n"
