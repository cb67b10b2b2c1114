"""Models that other programs have put on this machine: where they keep them, and under which names.

Reads the caches of Hugging Face, Ollama, LM Studio and llama.cpp, and changes nothing. Everything
found there is somebody else's and may be anything: walks are bounded, links are followed only where
they stay inside the cache, and files are looked at, not read.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pagemill.errors import InvalidRequest
from pagemill.hub.checks import checked_hex
from pagemill.hub.disk import regular
from pagemill.hub.ggufs import quantization
from pagemill.hub.local import MAGIC, LocalModel, first_bytes, look, models_in, name_from
from pagemill.hub.names import Name
from pagemill.hub.parts import is_module

MAX_FOLDERS = 5_000  # visited in one cache
MAX_ENTRIES = 10_000  # of one folder
MAX_JSON_BYTES = 1 << 20
OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")
OLLAMA_WEIGHTS = "application/vnd.ollama.image.model"


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder in which a program keeps models."""

    program: str  # "Ollama"
    root: Path


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model in a cache, and the name that it would get here."""

    name: Name
    model: LocalModel
    cache: Cache
    sha256: str = ""  # where the cache names its bytes


def caches(env: Mapping[str, str], home: Path) -> list[Cache]:
    """Where the programs keep their models, as their variables say; those that exist, each once."""
    shared = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    hugging = Path(env.get("HF_HOME") or shared / "huggingface")
    named = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE")
    places = [
        Cache("Hugging Face", Path(named or hugging / "hub")),
        *(Cache("Ollama", Path(env["OLLAMA_MODELS"])) for _ in [0] if env.get("OLLAMA_MODELS")),
        Cache("Ollama", home / ".ollama/models"),
        Cache("Ollama", OLLAMA_SERVICE),
        Cache("LM Studio", home / ".lmstudio/models"),
        Cache("LM Studio", home / ".cache/lm-studio/models"),
        Cache("llama.cpp", Path(env.get("LLAMA_CACHE") or shared / "llama.cpp")),
    ]
    found: dict[Path, Cache] = {}
    for cache in places:
        root = Path(os.path.realpath(cache.root.expanduser()))
        if root.is_dir():
            found.setdefault(root, replace(cache, root=root))
    return list(found.values())


def scan(places: Sequence[Cache], taken: Collection[str] = ()) -> list[Candidate]:
    """Every model in these caches, each under a name of its own, whose key is not in `taken`."""
    readers = {
        "Hugging Face": _hugging_face,
        "Ollama": _ollama,
        "LM Studio": _lm_studio,
        "llama.cpp": _llama_cpp,
    }
    found: list[Candidate] = []
    used = set(taken)
    for cache in places:
        for candidate in readers[cache.program](cache):
            unique = _unique(candidate, used)
            used.add(unique.name.key)
            found.append(unique)
    return found


def _hugging_face(cache: Cache) -> Iterator[Candidate]:
    """models--org--repo/snapshots/<commit>/: links into models--org--repo/blobs."""
    for repo in _folders(cache.root):
        words = repo.name.split("--")
        if words[0] != "models" or len(words) < 2:
            continue
        snapshot = _snapshot(repo)
        if snapshot is None:
            continue
        text = "/".join(words[1:])
        models = [(text, model) for model in _models(snapshot, repo)]
        for folder in _folders(snapshot):
            if not is_module(folder.name):
                # Safetensors in a folder are named by it; quantizations often have one each.
                inner = [(f"{text}/{folder.name}", model) for model in _models(folder, repo)]
                models += [(text if model.kind == "GGUF" else sub, model) for sub, model in inner]
        several = len([model for _, model in models if model.kind == "GGUF"]) > 1
        for named, model in models:
            for candidate in _named(named, model, cache, several and model.kind == "GGUF"):
                yield replace(candidate, sha256=_told_by_name(model))


def _told_by_name(model: LocalModel) -> str:
    """The SHA-256 of a single file whose real name is its SHA-256, else ""."""
    try:
        return checked_hex(Path(os.path.realpath(model.path)).name) if not model.entry else ""
    except InvalidRequest:
        return ""


def _snapshot(repo: Path) -> Path | None:
    """The commit that "main" is at, else the one that was fetched last."""
    snapshots = {folder.name: folder for folder in _folders(repo / "snapshots")}
    main = _text(repo / "refs/main", 64).decode("ascii", "replace").strip()
    if main in snapshots:
        return snapshots[main]
    return max(snapshots.values(), key=lambda folder: folder.stat().st_mtime, default=None)


def _ollama(cache: Cache) -> Iterator[Candidate]:
    """manifests/<host>/<owner>/<model>/<tag>: JSON that names blobs/sha256-<hex>."""
    for path in _files(cache.root / "manifests", 4):
        try:
            manifest: Any = json.loads(_text(path, MAX_JSON_BYTES))
            [digest] = [
                checked_hex(str(layer["digest"]))
                for layer in manifest["layers"]
                if layer["mediaType"] == OLLAMA_WEIGHTS
            ]
            host, owner, model, tag = path.relative_to(cache.root / "manifests").parts
        except (ValueError, KeyError, TypeError, RecursionError, InvalidRequest):
            continue
        blob = cache.root / f"blobs/sha256-{digest}"
        if not _inside(blob, cache.root) or first_bytes(blob) != MAGIC:
            continue
        found = look(blob)
        if found is None:
            continue
        if host in ("hf.co", "huggingface.co"):
            text = f"hf.co/{owner}/{model}:{tag}"
        else:
            text = f"{model}:{tag}" if owner == "library" else f"{owner}-{model}:{tag}"
        for candidate in _named(text, found, cache, several=False):
            yield replace(candidate, sha256=digest)


def _lm_studio(cache: Cache) -> Iterator[Candidate]:
    """publisher/repo/: files of a model, or of several."""
    for publisher in _folders(cache.root):
        for repo in _folders(publisher):
            models = _models(repo, cache.root)
            for model in models:
                yield from _named(f"{publisher.name}/{repo.name}", model, cache, len(models) > 1)


def _llama_cpp(cache: Cache) -> Iterator[Candidate]:
    """A flat folder of files, named after repository and file."""
    for model in _models(cache.root, cache.root):
        yield from _named("", model, cache, several=False)


def _models(folder: Path, root: Path) -> list[LocalModel]:
    """The models of a folder whose files all are in the cache and begin as they should."""
    try:
        models = models_in(folder)
    except InvalidRequest:
        return []
    return [
        model
        for model in models
        if all(_inside(model.place / path, root) for path in model.paths)
        and (model.kind != "GGUF" or first_bytes(model.path) == MAGIC)
    ]


def _named(text: str, model: LocalModel, cache: Cache, several: bool) -> Iterator[Candidate]:
    """The model under the name `text`, or under that of its file; nothing if neither is one.

    With `several` of that name, the quantization tells them apart.
    """
    try:
        name = Name.parse(text, allow_files=False) if text else name_from(model)
        if several and name.kind == "hub":
            told = quantization(model.path.name)
            name = replace(name, tag=told) if told else name_from(model)
    except InvalidRequest:
        return
    yield Candidate(name, model, cache)


def _unique(candidate: Candidate, taken: Collection[str]) -> Candidate:
    """Two programs may have the same model, or two models of one name."""
    name = candidate.name
    for number in range(2, MAX_ENTRIES):
        if name.key not in taken:
            break
        tag = f"{candidate.name.tag}-{number}" if candidate.name.tag else f"{number}"
        name = replace(candidate.name, tag=tag.upper() if name.kind == "hub" else tag)
    return replace(candidate, name=name)


def _inside(path: Path, root: Path) -> bool:
    real = Path(os.path.realpath(path))
    return real.is_relative_to(os.path.realpath(root)) and regular(real) is not None


def _folders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)]


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Regular files so many folders down, links not followed."""
    level = [folder]
    for _ in range(depth - 1):
        level = list(islice((sub for one in level for sub in _folders(one)), MAX_FOLDERS))
    for one in level:
        for entry in _entries(one):
            if entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            return sorted(islice(entries, MAX_ENTRIES), key=lambda entry: entry.name)
    except OSError:  # not there, or not for us to read
        return []


def _text(path: Path, limit: int) -> bytes:
    """The content of a small regular file; b"" for all else."""
    details = regular(path)
    if details is None or details.st_size > limit:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return b""
