"""Models made from others: the same blobs under a new name, with a small file of their own.

Files that are in the store are shared, not copied; those of others are copied in, so that a created
model needs nobody's leave to stay. Must not know: what the small file says.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pagemill.errors import InvalidRequest, UnknownModel
from pagemill.hub.catalogue import Catalogue
from pagemill.hub.checks import file_sha256
from pagemill.hub.imports import copy_files
from pagemill.hub.local import look
from pagemill.hub.manifests import StoredFile
from pagemill.hub.names import Name
from pagemill.hub.store import Store, StoredModel

NEW_FILE = "model.gguf"


def new_name(store: Store, text: str) -> Name:
    """A name that a created model can have. InvalidRequest: it is another model's."""
    name = Name.parse(text, allow_files=False)
    if name.kind != "catalogue":
        raise InvalidRequest(
            f"{name} is a repository's name; a new model needs one such as mine:1b"
        )
    entries = Catalogue.load().entries
    if name.key in {known.key for entry in entries for known in (entry.name, *entry.aliases)}:
        raise InvalidRequest(f"{name} is a name of the catalogue; a new model needs another")
    if store.lists(name):
        raise InvalidRequest(f"{name} is listed already; choose another, or `pagemill rm` it")
    return name


@contextmanager
def new_file(store: Store, name: Name) -> Iterator[Path]:
    """Where the file of a new model may be written; nothing is left of it afterwards."""
    with store.changing():
        store.prepare()
    path = store.home / "partial" / f"{name.key}.gguf"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def files_of(
    store: Store,
    base: StoredModel,
    name: Name,
    leave_out: str,
    progress: Callable[[int, int], None],
) -> tuple[list[StoredFile], str]:
    """The files of a base as blobs of the store, and the one that is opened, "" for their folder.
    `leave_out` is a file that the new model has its own of."""
    known = store.manifest(base.name) if base.name.kind != "file" else None
    if known is not None and known.files:
        return _without(known.files, leave_out), known.entry
    model = look(base.path)
    if model is None:
        raise UnknownModel(f"there is no file or folder {base.path}")
    with store.changing():
        files, entry = copy_files(store, name, model, progress)
    return _without(files, leave_out), entry


def _without(files: Sequence[StoredFile], name: str) -> list[StoredFile]:
    return [file for file in files if file.path.rpartition("/")[2] != name]


def take_file(store: Store, place: Path, path: str = NEW_FILE) -> StoredFile:
    """Make a complete file, that is ours to move, a blob. `path` is its name in the model."""
    size = place.stat().st_size
    digest = file_sha256(place)
    with store.changing(), store.lock(digest):
        store.publish(digest, place)
    return StoredFile(path, digest, size)


def take_bytes(store: Store, name: Name, path: str, raw: bytes) -> StoredFile:
    """The same for a small file."""
    with new_file(store, name) as place:
        place.write_bytes(raw)
        return take_file(store, place, path)


def add(
    store: Store, name: Name, files: Sequence[StoredFile], entry: str, source: str
) -> StoredModel:
    """List the new model. InvalidRequest: somebody was faster with this name."""
    if store.lists(name):
        raise InvalidRequest(f"{name} is listed already")
    with store.changing():
        return store.add_files(name, files, entry, source)
