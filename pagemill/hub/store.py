"""The model store: one folder that several processes may read and write at once.

    blobs/sha256-<hex>        files of models, named by what is in them
    folders/sha256-<hex>/     models of several files: their blobs once more, under their own names
    manifests/<key>.json      one listed model each: its name, its files and its source
    partial/                  bytes under way; a killed download goes on from here
    locks/                    held while a blob is written, or the list is changed

Owns the layout and the order of writes: bytes, fsync, rename, fsync of the folder; the blobs first
and the manifest last. So whatever moment a process dies, a listed model is whole. It knows nothing
of where bytes come from. Files of somebody else may be listed too: they are never written, and
must still be as they were when they were registered.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pagemill.errors import InvalidRequest, PagemillError, UnknownModel
from pagemill.hub.checks import checked_hex, file_sha256
from pagemill.hub.disk import has, link_over, locked, regular, sync_folder
from pagemill.hub.manifests import MAX_MANIFEST_BYTES, Manifest, Stamp, StoredFile, read_manifest
from pagemill.hub.names import Name

STALE_S = 14 * 24 * 3600.0

# What reading a manifest, or looking for its files, fails with.
_UNUSABLE = (OSError, ValueError, InvalidRequest)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that can be loaded: `path` is a GGUF file, or a folder with safetensors.

    The digest is "sha256:<hex>", or "" for files whose bytes nobody has named; `size` is in bytes,
    `modified` in Unix time.
    """

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


class MissingBlob(PagemillError):
    """A blob that was to be listed was removed meanwhile."""


class Store:
    """The store in the folder `home`, which is made on the first write."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def find(self, name: Name) -> StoredModel | None:
        """The listed model of exactly this name (catalogue aliases are not followed), or None."""
        try:
            return self._opened(self._read(self._manifest_path(name)))
        except _UNUSABLE:
            return None

    def lists(self, name: Name) -> bool:
        """Whether anything is recorded under this name, readable or not."""
        return self._manifest_path(name).exists()

    def manifests(self) -> Iterator[Manifest]:
        """Every readable manifest, whether its files are whole or not."""
        for path in self._manifest_paths():
            try:
                yield self._read(path)
            except _UNUSABLE:
                continue

    def manifest(self, name: Name) -> Manifest | None:
        """What is recorded under this name, whether its files are whole or not."""
        try:
            return self._read(self._manifest_path(name))
        except _UNUSABLE:
            return None

    def trouble_in_place(self, name: Name) -> str:
        """Why a model that lies elsewhere cannot be used; "" when it can, or there is none."""
        manifest = self.manifest(name)
        try:
            if manifest is not None and manifest.place:
                self._opened(manifest)
        except _UNUSABLE as error:
            return _reason(error)
        return ""

    def remove(self, name: Name) -> None:
        """Unlist a model. Its own files go too where no other model needs them, others' never do.

        Raises UnknownModel.
        """
        if not self.lists(name):
            held = ", ".join(str(m.name) for m in self.list()) or "none"
            raise UnknownModel(f"model {str(name)!r} is not in the store; stored models: {held}")
        with self.changing(), self._changing_list():
            manifest = self.manifest(name)
            self._manifest_path(name).unlink(missing_ok=True)
            sync_folder(self.home / "manifests")
            if manifest is not None:
                self._sweep(manifest)

    def verify(self) -> "list[Damage]":
        """Hash every file again. Pulling a damaged model repairs it."""
        damages = []
        for path in self._manifest_paths():
            name = path.name
            try:
                manifest = self._read(path)
                name = str(manifest.name)
                self._opened(manifest)
                for place, sha256, shown in self._hashed(manifest):
                    if file_sha256(place) != sha256:
                        damages.append(Damage(name, f"the bytes on disk have changed{shown}"))
            except _UNUSABLE as error:
                damages.append(Damage(name, _reason(error)))
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
        """Make the folders, and sweep what pulls left that nobody went on with for two weeks."""
        for folder in ("blobs", "folders", "manifests", "partial", "locks"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        for path in _old(self.home / "partial"):
            path.unlink(missing_ok=True)
        with self._changing_list():
            listed = [*self.manifests()]
            if len(listed) < len(self._manifest_paths()):
                return  # of a manifest that is not understood nobody knows what it needs
            needed = {f"sha256-{file.sha256}" for manifest in listed for file in manifest.files}
            for path in _old(self.home / "blobs"):
                if path.name not in needed:
                    path.unlink(missing_ok=True)

    def publish(self, digest: str, complete: Path) -> Path:
        """Move a complete, checked file to its place among the blobs. The caller holds the lock."""
        blob = self.blob_path(digest)
        with open(complete, "rb") as file:
            os.fsync(file.fileno())
        os.replace(complete, blob)
        sync_folder(blob.parent)
        return blob

    def add(self, name: Name, digest: str, source: str) -> StoredModel:
        """List one blob under a name."""
        details = regular(self.blob_path(digest))
        only = StoredFile("model.gguf", checked_hex(digest), details.st_size if details else 0)
        return self.add_files(name, [only], only.path, source)

    def add_files(
        self, name: Name, files: Sequence[StoredFile], entry: str, source: str
    ) -> StoredModel:
        """List blobs as one model: the last write of a pull.

        `entry` is the file that is opened, "" for the folder of them all. Raises MissingBlob when
        one of them was removed while the others came.
        """
        manifest = Manifest(name, source, time.time(), files=tuple(files), entry=entry)
        with self._changing_list():
            for file in files:
                if not has(self.blob_path(file.sha256), file.size):
                    raise MissingBlob(f"{file.path} of {name} was removed while it was pulled")
            if not manifest.is_blob:
                self._link_folder(manifest)
            return self._list(manifest)

    def add_in_place(self, manifest: Manifest) -> StoredModel:
        """List files of somebody else where they lie. ValueError when they are not as recorded."""
        self.prepare()
        with self._changing_list():
            self._opened(manifest)
            return self._list(manifest)

    @contextmanager
    def lock(self, digest: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Be the only writer of this blob; until then `waiting` is called ten times a second."""
        with locked(self._inside("locks", f"sha256-{checked_hex(digest)}.lock"), waiting):
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Turn trouble with the disk (full, read-only, broken) into one clear error."""
        try:
            yield
        except OSError as error:
            raise PagemillError(
                f"cannot change the store {self.home}: {error.strerror or error}"
            ) from error

    # From a manifest to files, and back.

    def _opened(self, manifest: Manifest) -> StoredModel:
        """The model, if all its files are there as recorded. ValueError says which is not."""
        name = str(manifest.name)
        if manifest.place:
            path = Path(manifest.place)
            for stamp in manifest.stamps:
                _check_stamp(path / stamp.path, stamp, name)
            path /= manifest.entry
        else:
            for place, file in self._places(manifest):
                if not (has(place, file.size) and self._is_inside(place)):
                    raise ValueError(
                        f"{file.path} of {name!r} is missing or has not {file.size} bytes"
                    )
            path = self._root(manifest)
        digest = f"sha256:{manifest.digest}" if manifest.digest else ""
        return StoredModel(
            manifest.name, path, digest, manifest.size, manifest.modified, manifest.source
        )

    def _root(self, manifest: Manifest) -> Path:
        """What is opened of files that are ours."""
        if manifest.is_blob:
            return self.blob_path(manifest.digest)
        return self._inside("folders", f"sha256-{manifest.digest}/{manifest.entry}")

    def _places(self, manifest: Manifest) -> Iterator[tuple[Path, StoredFile]]:
        """Where each of a model's own files is read. A link at its end is not followed."""
        folder = f"sha256-{manifest.digest}"
        for file in manifest.files:
            if manifest.is_blob:
                yield self.blob_path(file.sha256), file
            else:
                above, _, last = file.path.rpartition("/")
                yield self._inside("folders", f"{folder}/{above}") / last, file

    def _hashed(self, manifest: Manifest) -> Iterator[tuple[Path, str, str]]:
        """Every file whose SHA-256 is known, the SHA-256, and how a message names the file."""
        if manifest.known_sha256:
            place = Path(manifest.place) / manifest.entry
            yield place, manifest.known_sha256, f": {place}"
        for place, file in self._places(manifest):
            yield place, file.sha256, "" if manifest.is_blob else f": {file.path}"

    def _link_folder(self, manifest: Manifest) -> None:
        """Give the blobs their own names, in a folder that is named by all of them together."""
        touched = set()
        for place, file in self._places(manifest):
            blob = self.blob_path(file.sha256)
            place.parent.mkdir(parents=True, exist_ok=True)
            touched.add(place.parent)
            # A name may still lead to bytes that were found damaged, and were replaced since.
            if not (has(place, file.size) and os.path.samefile(blob, place)):
                # No partial file of the blob, which whoever writes that blob may clear meanwhile.
                link_over(blob, place, self._inside("partial", f"link-{file.sha256}"))
        for folder in touched:
            sync_folder(folder)

    def _list(self, manifest: Manifest) -> StoredModel:
        """Write the manifest, and sweep what only the one before it needed."""
        before = self.manifest(manifest.name)
        raw = manifest.written()
        if len(raw) > MAX_MANIFEST_BYTES:
            raise PagemillError(f"{manifest.name} has more files than a manifest can name")
        path = self._manifest_path(manifest.name)
        temporary = self._inside("partial", path.name)
        with open(temporary, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
        if before is not None:
            self._sweep(before)
        return self._opened(self._read(path))

    def _sweep(self, gone: Manifest) -> None:
        """Remove the files of an unlisted manifest that no listed one needs."""
        if not gone.files:
            return
        blobs, folders = set(), set()
        for other in self.manifests():
            blobs |= {file.sha256 for file in other.files}
            folders |= set() if other.is_blob or other.place else {other.digest}
        if not gone.is_blob and gone.digest not in folders:
            shutil.rmtree(self._inside("folders", f"sha256-{gone.digest}"), ignore_errors=True)
        for file in gone.files:
            if file.sha256 not in blobs:
                self.blob_path(file.sha256).unlink(missing_ok=True)
        sync_folder(self.home / "blobs")

    def _read(self, path: Path) -> Manifest:
        with open(path, "rb") as file:
            manifest = read_manifest(file.read(MAX_MANIFEST_BYTES + 1))
        if path.name != f"{manifest.name.key}.json":
            raise ValueError(f"the manifest of {str(manifest.name)!r} has the wrong file name")
        return manifest

    def _manifest_path(self, name: Name) -> Path:
        return self._inside("manifests", f"{name.key}.json")

    def _manifest_paths(self) -> "list[Path]":
        try:
            return sorted((self.home / "manifests").glob("*.json"))
        except OSError:
            return []

    def _inside(self, folder: str, file: str) -> Path:
        """The path of a file of the store, with every link followed, which must stay inside."""
        path = self.home / folder / file
        if not self._is_inside(path):
            raise InvalidRequest(f"{path} leads outside the store {self.home}")
        return path

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.home))

    @contextmanager
    def _changing_list(self) -> Iterator[None]:
        with locked(self._inside("locks", "manifests.lock")):
            yield

    # Last, because within the class body it hides the type `list` from the annotations after it.
    def list(self) -> "list[StoredModel]":
        """Every model that can be loaded, by name. Damaged ones are left to `verify`."""
        models = []
        for path in self._manifest_paths():
            try:
                models.append(self._opened(self._read(path)))
            except _UNUSABLE:
                continue
        return sorted(models, key=lambda model: str(model.name))


def _old(folder: Path) -> Iterator[Path]:
    """The files of a folder that nobody has written to for long."""
    for path in folder.iterdir():
        details = regular(path)  # another process may have taken it
        if details is not None and time.time() - details.st_mtime > STALE_S:
            yield path


def _check_stamp(path: Path, stamp: Stamp, name: str) -> None:
    details = regular(path)
    if details is None:
        raise ValueError(f"{path}, which {name!r} is read from, is gone")
    if (details.st_size, details.st_mtime_ns) != (stamp.size, stamp.mtime_ns):
        raise ValueError(f"{path}, which {name!r} is read from, was changed after it was imported")


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, PagemillError) else str(error)
