"""Taking in models that are on this machine already: where they lie, or as a copy.

In place means that nothing is copied, moved or linked: the store records where the files are, and
their sizes and times, by which a later change is noticed. Such files are never written or deleted.
"""

import hashlib
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pagemill.errors import BadModelFile, InvalidRequest, PagemillError
from pagemill.hub.checks import HASH_CHUNK
from pagemill.hub.disk import regular
from pagemill.hub.local import LocalModel
from pagemill.hub.manifests import Manifest, Stamp, StoredFile
from pagemill.hub.names import Name
from pagemill.hub.store import Store, StoredModel


def register(
    store: Store, name: Name, model: LocalModel, source: str, sha256: str = ""
) -> StoredModel:
    """List a model where it lies. Raises InvalidRequest when the name is taken by another."""
    _check_free(store, name, model)
    stamps = tuple(_stamp(model.place / path, path) for path in model.paths)
    manifest = Manifest(
        name,
        source,
        time.time(),
        entry=model.entry,
        place=str(model.place),
        stamps=stamps,
        known_sha256=sha256 if len(stamps) == 1 else "",
    )
    with store.changing():
        try:
            return store.add_in_place(manifest)
        except ValueError as error:  # changed while we looked
            raise BadModelFile(str(error)) from error


def copy_in(
    store: Store,
    name: Name,
    model: LocalModel,
    source: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StoredModel:
    """Copy a model into the store. `progress` gets the bytes that are done, and all of them."""
    _check_free(store, name, model)
    with store.changing():
        files, entry = copy_files(store, name, model, progress)
        return store.add_files(name, files, entry, source)


def copy_files(
    store: Store, name: Name, model: LocalModel, progress: Callable[[int, int], None]
) -> tuple[list[StoredFile], str]:
    """Copy a model's files, and list nothing yet: they as blobs, and the one that is opened."""
    store.prepare()
    free = shutil.disk_usage(store.home).free
    if free < model.size:
        raise PagemillError(f"{name} needs {model.size} bytes, {store.home} has {free} free")
    files: list[StoredFile] = []
    done = 0
    for path in model.paths:
        place = model.place / path
        file = _copied(
            store, place, path or place.name, partial(_forward, progress, done, model.size)
        )
        files.append(file)
        done += file.size
    return files, (model.entry or files[0].path) if model.kind == "GGUF" else ""


def _forward(progress: Callable[[int, int], None], before: int, total: int, have: int) -> None:
    progress(before + have, total)


def _copied(store: Store, place: Path, name: str, report: Callable[[int], None]) -> StoredFile:
    """One file as a blob. Its bytes are hashed as they are copied."""
    stamp = _stamp(place, "")
    # Two imports of one file at once would write into each other: the place names the lock.
    key = hashlib.sha256(str(place).encode()).hexdigest()
    digest, size = hashlib.sha256(), 0
    with store.lock(key):
        copy = store.partial_path(key)
        with open(place, "rb") as file, open(copy, "wb") as output:
            while size < stamp.size and (chunk := file.read(HASH_CHUNK)):
                digest.update(chunk)
                size += len(chunk)
                output.write(chunk)
                report(size)
        if _stamp(place, "") != stamp or size != stamp.size:
            copy.unlink()
            raise BadModelFile(f"{place} was changed while it was copied")
        store.publish(digest.hexdigest(), copy)
    return StoredFile(name, digest.hexdigest(), size)


def _check_free(store: Store, name: Name, model: LocalModel) -> None:
    if name.kind == "file":
        raise InvalidRequest(f"{name} is a path; a model needs a name such as my-model:1b")
    known = store.manifest(name)
    if known is not None and known.place != str(model.place):
        raise InvalidRequest(
            f"{name} is listed already: choose another --name, or `pagemill rm` it"
        )


def _stamp(place: Path, path: str) -> Stamp:
    details = regular(place)
    if details is None:
        raise BadModelFile(f"{place} cannot be read")
    return Stamp(path, details.st_size, details.st_mtime_ns)
