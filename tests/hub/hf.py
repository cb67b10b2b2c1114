"""A Hugging Face in the fake server: repositories with safetensors and GGUF, gated or not."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pagemill.hub.download import pull
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes, Timing
from pagemill.hub.store import Store, StoredModel
from tests.hub.fake import Fake, Handler, model_bytes

COMMIT = "c0ffee" * 6 + "abcd"
FAST = Timing(attempts=3, backoff_s=0.001, max_wait_s=2.0, stall_s=10.0)
HASTY = replace(FAST, stall_s=0.3)
LISTING = "/api/models/org/repo/revision/main"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = json.dumps({"metadata": {}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode()
# A repository as they are: what is needed, and what must stay where it is.
NEEDED: Mapping[str, bytes] = {
    "config.json": b'{"architectures": ["X"]}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{}",
    "added_tokens.json": b"",
    "vocab.json": b"{}",
    "merges.txt": b"a b\n",
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"Apache",
    "model.safetensors.index.json": INDEX,
    SHARDS[0]: model_bytes(50_000),
    SHARDS[1]: model_bytes(30_000)[::-1],
}
BESIDE: Mapping[str, bytes] = dict.fromkeys(
    (
        ".gitattributes", "README.md", "pytorch_model.bin", "model.pt", "tf_model.h5",
        "modeling_x.py", "onnx/model.onnx", "consolidated.safetensors", "original/params.json",
        "model.safetensors.bak", "runs/events.pkl", "x.gguf", "images/a b.png",
    ),
    b"not for us",
)  # fmt: skip


def is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf", ".bin", ".onnx"))


def row(path: str, body: bytes) -> dict[str, Any]:
    """One file as the hub lists it: with its SHA-256 if it is large, else with git's name."""
    git = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    listed: dict[str, Any] = {"rfilename": path, "size": len(body), "blobId": git}
    if is_lfs(path):
        sha256 = hashlib.sha256(body).hexdigest()
        listed["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": 130}
    return listed


def offer(
    fake: Fake,
    files: Mapping[str, bytes],
    *,
    repo: str = "org/repo",
    revision: str = "main",
    commit: str = COMMIT,
) -> dict[str, Any]:
    """Put a repository on the hub. The listing, to change and `publish` again."""
    for path, body in files.items():
        place = f"/{repo}/resolve/{commit}/{path}".replace(" ", "%20")
        fake.files[place] = ("application/octet-stream", body)
    listing = {"sha": commit, "siblings": [row(path, body) for path, body in files.items()]}
    publish(fake, listing, repo=repo, revision=revision)
    return listing


def publish(fake: Fake, listing: Any, *, repo: str = "org/repo", revision: str = "main") -> None:
    path = f"/api/models/{repo}/revision/{revision.replace('/', '%2F')}"
    fake.files[path] = ("application/json", json.dumps(listing).encode())


def get(
    fake: Fake,
    store: Store | Path,
    text: str = "org/repo",
    *,
    token: str = "",
    timing: Timing = FAST,
    **more: Any,
) -> StoredModel:
    remotes = Remotes(hf_endpoint=fake.url, hf_token=token)
    if isinstance(store, Path):
        store = Store(store)
    return pull(Name.parse(text), store, remotes=remotes, timing=timing, **more)


def place(path: str, commit: str = COMMIT, repo: str = "org/repo") -> str:
    """The path of a file on the fake hub."""
    return f"/{repo}/resolve/{commit}/{path}"


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def asked_commits(fake: Fake) -> set[str]:
    """The revisions of all file requests."""
    return {
        path.split("/resolve/")[1].split("/")[0] for path, _ in fake.asked if "/resolve/" in path
    }


def refuse(status: int, code: str = "", words: str = "", unless: str = "") -> Any:
    """A fault that answers as the hub does when it will not."""

    def fault(handler: Handler, body: bytes) -> bool:
        if unless and handler.headers.get("Authorization") == f"Bearer {unless}":
            return False
        headers = {"X_Error_Code": code, "X_Error_Message": words}
        if status == 401:
            headers["WWW_Authenticate"] = 'Bearer realm="http://127.0.0.1:1/steal"'
        handler.answer(status, b"<html>no</html>", **{k: v for k, v in headers.items() if v})
        return True

    return fault
