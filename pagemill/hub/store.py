"""The model store: one folder that several processes may read and write at once.

    blobs/sha256-<hex>        model files, named by what is in them
    manifests/<key>.json      one listed model each: its name, digest, size and source
    partial/                  bytes under way; a killed download goes on from here
    locks/sha256-<hex>.lock   held while a blob is written or removed

Owns the layout and the order of writes: bytes, fsync, rename, fsync of the folder; the blob first
and the manifest last. So whatever moment a process dies, a listed model is whole. It knows nothing
of where bytes come from.

Locks are `flock` locks: the kernel gives the lock of a dead process to the next one at once.
"""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagemill.errors import InvalidRequest, PagemillError, UnknownModel
from pagemill.hub.names import Name

SCHEMA = 1  # of manifests; a higher one was written by a newer Pagemill and is left alone
MAX_MANIFEST_BYTES = 64 * 1024
STALE_PARTIAL_S = 14 * 24 * 3600.0
LOCK_POLL_S = 0.1
MAX_TIME = 1e11  # seconds: year 5138
HASH_CHUNK = 1 << 20

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that can be loaded: digest "sha256:<hex>", size in bytes, modified in Unix time."""

    name: Name
    path: Path
    digest: str
    size: int
    modified: float
    source: str


@dataclass(frozen=True, slots=True)
class Damage:
    """What `Store.verify` found wrong with one model (or with one manifest, by its file name)."""

    name: str
    reason: str


class Store:
    """The store in the folder `home`, which is made on the first write."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def find(self, name: Name) -> StoredModel | None:
        """The listed model of exactly this name (catalogue aliases are not followed), or None."""
        try:
            return _read_manifest(self, self._manifest(name))
        except (OSError, ValueError):
            return None

    def remove(self, name: Name) -> None:
        """Unlist a model; its blob goes too when no other name needs it. Raises UnknownModel."""
        model = self.find(name)
        if model is None:
            held = ", ".join(str(m.name) for m in self.list()) or "none"
            raise UnknownModel(f"model {str(name)!r} is not in the store; stored models: {held}")
        with self.changing(), self.lock(model.digest):
            self._manifest(name).unlink(missing_ok=True)
            _sync_folder(self.home / "manifests")
            if all(other.digest != model.digest for other in self.list()):
                model.path.unlink(missing_ok=True)
                _sync_folder(self.home / "blobs")

    def verify(self) -> "list[Damage]":
        """Hash every blob again. Pulling a damaged model repairs it."""
        damages = []
        for path in self._manifest_paths():
            try:
                model = _read_manifest(self, path)
                if file_sha256(model.path) != model.digest.removeprefix("sha256:"):
                    damages.append(Damage(str(model.name), "the bytes on disk have changed"))
            except (OSError, ValueError) as error:
                damages.append(Damage(path.name, str(error)))
        return damages

    def blob_path(self, digest: str) -> Path:
        """Where the blob of a digest lies, whether it is there or not."""
        return self._inside("blobs", f"sha256-{checked_hex(digest)}")

    def partial_path(self, digest: str, suffix: str = "") -> Path:
        """Where the first bytes of a file with this digest are collected."""
        return self._inside("partial", f"sha256-{checked_hex(digest)}{suffix}")

    def partial_paths(self, digest: str) -> "list[Path]":
        """All that has been collected for this digest."""
        return list((self.home / "partial").glob(f"sha256-{checked_hex(digest)}*"))

    def clear_partial(self, digest: str) -> None:
        """Drop what was collected for a blob that is in place. The caller holds the lock."""
        for path in self.partial_paths(digest):
            path.unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the folders, and sweep partial files that nobody has touched for two weeks."""
        for folder in ("blobs", "manifests", "partial", "locks"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        for path in (self.home / "partial").iterdir():
            try:
                if time.time() - path.stat().st_mtime > STALE_PARTIAL_S:
                    path.unlink()
            except FileNotFoundError:  # another process took it
                continue

    def publish(self, digest: str, complete: Path) -> Path:
        """Move a complete, checked file to its place among the blobs. The caller holds the lock."""
        blob = self.blob_path(digest)
        with open(complete, "rb") as file:
            os.fsync(file.fileno())
        os.replace(complete, blob)
        _sync_folder(blob.parent)
        return blob

    def add(self, name: Name, digest: str, source: str) -> StoredModel:
        """List a blob under a name: the last write of a pull. The caller holds the blob's lock."""
        blob = self.blob_path(digest)
        fields = {
            "schema": SCHEMA,
            "name": str(name),
            "digest": f"sha256:{checked_hex(digest)}",
            "size": blob.stat().st_size,
            "source": source,
            "modified": time.time(),
        }
        temporary = self.partial_path(digest, ".json")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(fields, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._manifest(name))
        _sync_folder(self.home / "manifests")
        return _read_manifest(self, self._manifest(name))

    @contextmanager
    def lock(self, digest: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Be the only writer of this blob; until then `waiting` is called ten times a second."""
        path = self._inside("locks", f"sha256-{checked_hex(digest)}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if waiting is not None:
                        waiting()
                    time.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Turn trouble with the disk (full, read-only, broken) into one clear error."""
        try:
            yield
        except OSError as error:
            raise PagemillError(
                f"cannot change the store {self.home}: {error.strerror or error}"
            ) from error

    def _manifest(self, name: Name) -> Path:
        return self._inside("manifests", f"{name.key}.json")

    def _manifest_paths(self) -> "list[Path]":
        try:
            return sorted((self.home / "manifests").glob("*.json"))
        except OSError:
            return []

    def _inside(self, folder: str, file: str) -> Path:
        """The path of a file of the store, with every link followed, which must stay inside."""
        path = self.home / folder / file
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.home)):
            raise InvalidRequest(f"{path} leads outside the store {self.home}")
        return path

    # Last, because within the class body it hides the type `list` from the annotations after it.
    def list(self) -> "list[StoredModel]":
        """Every model that can be loaded, by name. Damaged manifests are left to `verify`."""
        models = []
        for path in self._manifest_paths():
            try:
                models.append(_read_manifest(self, path))
            except (OSError, ValueError):
                continue
        return sorted(models, key=lambda model: str(model.name))


def checked_hex(digest: str) -> str:
    """The 64 lower-case hex digits of "<hex>" or "sha256:<hex>"; InvalidRequest for all else."""
    digits = digest.removeprefix("sha256:")
    if not _HEX.fullmatch(digits):
        shown = ascii(digest[:80])
        raise InvalidRequest(f"digest {shown} is not sha256: and 64 lower-case hex digits")
    return digits


def file_sha256(path: Path) -> str:
    """The SHA-256 of a whole file, as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read_manifest(store: Store, path: Path) -> StoredModel:
    """Believe nothing: a manifest is a file on disk that anything may have changed."""
    with open(path, "rb") as file:
        raw = file.read(MAX_MANIFEST_BYTES + 1)
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ValueError(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        fields: Any = json.loads(raw)
    except RecursionError as error:
        raise ValueError("the manifest is nested too deeply") from error
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise ValueError(f"the manifest is not of schema {SCHEMA}")
    name, digest, size = fields.get("name"), fields.get("digest"), fields.get("size")
    source, modified = fields.get("source", ""), fields.get("modified", 0.0)
    if not (isinstance(name, str) and isinstance(digest, str) and isinstance(source, str)):
        raise ValueError("name, digest and source of the manifest must be strings")
    if type(size) is not int or type(modified) not in (int, float):
        raise ValueError("size and modified of the manifest must be numbers")
    if not 0 <= modified < MAX_TIME:  # refuses NaN as well
        raise ValueError("modified of the manifest is not a time")
    try:
        parsed = Name.parse(name, allow_files=False)
        blob = store.blob_path(digest)
    except InvalidRequest as error:
        raise ValueError(error.message) from error
    if path.name != f"{parsed.key}.json":
        raise ValueError(f"the manifest of {name!r} has the wrong file name")
    if not blob.is_file() or blob.stat().st_size != size:
        raise ValueError(f"the blob of {name!r} is missing or has not {size} bytes")
    return StoredModel(parsed, blob, digest, size, float(modified), source)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
