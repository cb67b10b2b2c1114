"""Pulling: from a name to a listed model, by the first source that has the promised bytes.

Owns the order of things: what the files must be, the locks, what is there already, the sources, the
hashes, then the listing. A pull that dies leaves partial files that the next one goes on with.
Imports the HTTP client only when something is fetched.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pagemill.errors import DownloadError, InvalidRequest, NotFound, PagemillError, UnknownModel
from pagemill.hub.catalogue import Catalogue, HubSource, PackageSource
from pagemill.hub.checks import file_sha256
from pagemill.hub.disk import has
from pagemill.hub.manifests import StoredFile
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes, Timing, pip_index_url
from pagemill.hub.sources import Meter, Mirror, Repository, Source, Wanted, Wheels, check_file
from pagemill.hub.store import MissingBlob, Store, StoredModel

if TYPE_CHECKING:
    from pagemill.hub.web import Web

REPORT_EVERY_S = 0.05
LISTING_ATTEMPTS = 3  # others may remove blobs while ours are still coming


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
    files: tuple[Wanted, ...]
    entry: str  # the file to open, "" for the folder of all
    mirrored_as: str = ""
    sources: "tuple[PackageSource | HubSource | Repository, ...]" = ()

    @property
    def size(self) -> int:
        return sum(wanted.size for wanted in self.files)

    @property
    def digest(self) -> str:
        """What progress is reported under."""
        keys = [wanted.key for wanted in self.files]
        return keys[0] if len(keys) == 1 else sha256("".join(keys).encode()).hexdigest()


def pull(
    name: Name,
    store: Store,
    *,
    remotes: Remotes | None = None,
    catalogue: Catalogue | None = None,
    progress: Progress = lambda _: None,
    timing: Timing | None = None,
    memory: int = 0,
) -> StoredModel:
    """Fetch a model into the store, or check and repair the one that is there.

    `memory` is what is available here, in bytes; of several quantizations one that fits is taken
    (`ggufs.choose` has the rule). `progress` is called often and from this thread; an exception it
    raises ends the pull, as Ctrl-C does, and the next pull resumes. Raises UnknownModel, NotFound,
    InvalidRequest, Unsupported, DownloadError.
    """
    with _Pull(store, remotes or Remotes(), progress, timing or Timing()) as work:
        return work.run(name, catalogue or Catalogue.load(), memory)


class _Pull:
    """One call of `pull`: its connections, what has come, and what the user is told."""

    def __init__(self, store: Store, remotes: Remotes, progress: Progress, timing: Timing) -> None:
        self._store, self._remotes, self._timing = store, remotes, timing
        self._progress = progress
        self._last = ("", 0.0)
        self._stack = ExitStack()
        self._whole: dict[str, str] = {}  # by key of a file that is here and checked: its SHA-256

    def __enter__(self) -> "_Pull":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, name: Name, catalogue: Catalogue, memory: int) -> StoredModel:
        if name.kind == "file":
            raise InvalidRequest(f"{name} is a file or folder of this machine", param="model")
        self._progress(PullProgress("looking up"))
        if name.kind == "hub":
            target = self._kept(name) if self._remotes.offline else self._on_hub(name, memory)
        else:
            target = _listed(name, catalogue)
        with self._store.changing():
            self._store.prepare()
            for attempt in range(1, LISTING_ATTEMPTS + 1):
                source = self._bring_all(target)
                try:
                    model = self._store.add_files(
                        target.name, self._stored(target), target.entry, source
                    )
                    break
                except MissingBlob:
                    self._whole.clear()
                    if attempt == LISTING_ATTEMPTS:
                        raise
        self._report("success", target, target.size, target.size)
        return model

    def _on_hub(self, name: Name, memory: int) -> _Target:
        from pagemill.hub import huggingface

        web = self._hub()
        repo = huggingface.open_repo(web, name.model, name.revision)
        chosen = huggingface.select(web, repo, name, memory)
        return _Target(
            name,
            self._with_known_digests(chosen.files),
            chosen.entry,
            sources=(Repository(web, repo, chosen.paths),),
        )

    def _with_known_digests(self, files: Sequence[Wanted]) -> tuple[Wanted, ...]:
        """The SHA-256 of files that are in the store, and that the hub names by git only."""
        stored = (file for manifest in self._store.manifests() for file in manifest.files)
        known = {file.git_id: file.sha256 for file in stored if file.git_id}
        return tuple(
            wanted if wanted.sha256 else replace(wanted, sha256=known.get(wanted.git_id, ""))
            for wanted in files
        )

    def _kept(self, name: Name) -> _Target:
        """What was pulled before, to be checked without a network."""
        manifest = self._store.manifest(name)
        if manifest is None or not manifest.files:
            raise DownloadError(
                f"{name} is not in the store and offline mode is on: Hugging Face is not asked"
            )
        files = [Wanted(file.path, file.size, file.sha256) for file in manifest.files]
        return _Target(name, tuple(files), manifest.entry)

    def _bring_all(self, target: _Target) -> str:
        """Have every file as a checked blob; what the source is called."""
        missing = [wanted for wanted in target.files if not self._present(target, wanted)]
        if not missing:
            return self._known_source(target)
        failures: list[PagemillError] = []
        for choice in self._choices(target):
            try:
                source = self._opened(choice, target)
                self._check_room(target, missing, source)
                meter = Meter(source.total(missing), partial(self._downloading, target))
                for wanted in missing:
                    self._bring(target, wanted, source, meter)
                for key in source.further_keys():
                    self._store.clear_partial(key)
                return source.label()
            except (DownloadError, NotFound) as error:
                failures.append(error)
        reasons = "; ".join(error.message for error in failures)
        if self._remotes.offline:
            words = f"{target.name} is not in the store and offline mode is on"
            raise DownloadError(f"{words}; {reasons}" if reasons else words)
        if len(failures) == 1:
            raise failures[0]
        raise DownloadError(f"{target.name} could not be fetched: {reasons or 'from nowhere'}")

    def _known_source(self, target: _Target) -> str:
        """Where files come from that are all here."""
        for choice in target.sources:
            if isinstance(choice, Repository):
                return choice.label()
        known = self._store.manifest(target.name)
        return known.source if known and known.source else "store"

    def _choices(self, target: _Target) -> "Iterator[PackageSource | HubSource | Source]":
        """The sources that may be used, in the order of preference."""
        if self._remotes.mirror is not None and target.mirrored_as:
            place = self._remotes.mirror / target.mirrored_as
            mirror = Mirror(place, is_folder=not target.entry)
            if mirror.holds(target.files):
                yield mirror
        if not self._remotes.offline:
            yield from target.sources

    def _opened(self, choice: "PackageSource | HubSource | Source", target: _Target) -> Source:
        if isinstance(choice, PackageSource):
            web = self._web(self._remotes.index_url or pip_index_url())
            return Wheels(web, self._store, choice)
        if isinstance(choice, HubSource):
            return self._pinned(choice, target)
        return choice

    def _pinned(self, source: HubSource, target: _Target) -> Repository:
        from pagemill.hub import huggingface

        web = self._hub()
        repo = huggingface.open_repo(web, source.repo, source.revision)
        paths = {wanted.path: source.file or wanted.path for wanted in target.files}
        return Repository(web, repo, paths)

    def _present(self, target: _Target, wanted: Wanted) -> bool:
        """Whether the file is here and whole. A damaged blob is removed."""
        if wanted.key in self._whole:
            return True
        if not wanted.sha256 or not self._store.blob_path(wanted.sha256).exists():
            return False
        with self._store.lock(wanted.key, lambda: self._wait(target)):
            return self._is_whole(target, wanted)

    def _is_whole(self, target: _Target, wanted: Wanted) -> bool:
        """As `_present`, for who holds the lock."""
        blob = self._store.blob_path(wanted.sha256) if wanted.sha256 else None
        if blob is None or not blob.exists():
            return False
        self._report("verifying", target, target.size, target.size)
        try:
            found = file_sha256(blob)
            if found != wanted.sha256:
                blob.unlink(missing_ok=True)
                return False
            # A source that is wrong about a sound blob must not cost its other users the blob.
            self._whole[wanted.key] = check_file(wanted, blob, found)
        except FileNotFoundError:  # the last model that needed it was removed just now
            return False
        self._store.clear_partial(wanted.key)
        return True

    def _bring(self, target: _Target, wanted: Wanted, source: Source, meter: Meter) -> None:
        """Fetch one file into its blob, unless another pull has done so meanwhile."""
        with self._store.lock(wanted.key, lambda: self._wait(target, source)):
            if self._is_whole(target, wanted):
                meter.passed(wanted.size)
                return
            collected = self._store.partial_path(wanted.key)
            resumed = any(self._store.partial_paths(wanted.key))
            while True:
                source.bring(wanted, collected, meter)
                self._report("verifying", target, meter.total, meter.total)
                try:
                    found = check_file(wanted, collected)
                    break
                except DownloadError:
                    self._store.clear_partial(wanted.key)
                    # Old bytes of an earlier attempt may be the damaged ones: once more.
                    if not resumed:
                        raise
                    resumed = False
            blob = self._store.blob_path(found)
            # Others may be tied to the blob that is there: it stays, if it is what it should be.
            if not (has(blob, wanted.size) and _hashes_to(blob, found)):
                self._store.publish(found, collected)
            self._whole[wanted.key] = found
            self._store.clear_partial(wanted.key)

    def _stored(self, target: _Target) -> list[StoredFile]:
        return [
            StoredFile(wanted.path, self._whole[wanted.key], wanted.size, wanted.git_id)
            for wanted in target.files
        ]

    def _check_room(self, target: _Target, missing: Sequence[Wanted], source: Source) -> None:
        free = shutil.disk_usage(self._store.home).free
        needed = sum(wanted.size for wanted in missing) + source.extra()
        needed -= self._partial_bytes(target, source)
        if free < needed:
            raise PagemillError(
                f"{target.name} needs {needed} more bytes, {self._store.home} has {free} free"
            )

    def _hub(self) -> "Web":
        return self._web(self._remotes.hf_endpoint, self._remotes.hf_token)

    def _web(self, base_url: str, token: str = "") -> "Web":
        from pagemill.hub.web import Web

        return self._stack.enter_context(Web(base_url, token=token, timing=self._timing))

    def _wait(self, target: _Target, source: Source | None = None) -> None:
        """Another pull has the lock: show how far it is."""
        total = source.total(target.files) if source else target.size
        have = self._partial_bytes(target, source)
        self._report("waiting for another pull", target, min(have, total), total)

    def _partial_bytes(self, target: _Target, source: Source | None) -> int:
        keys = [wanted.key for wanted in target.files] + list(
            source.further_keys() if source else ()
        )
        have = 0
        for path in (path for key in keys for path in self._store.partial_paths(key)):
            try:
                have += path.stat().st_size
            except FileNotFoundError:  # just published
                continue
        return have

    def _downloading(self, target: _Target, completed: int, total: int) -> None:
        self._report("downloading", target, completed, total)

    def _report(self, status: str, target: _Target, completed: int, total: int) -> None:
        now = time.monotonic()
        last_status, last_time = self._last
        if status == last_status and completed < total and now - last_time < REPORT_EVERY_S:
            return
        self._last = (status, now)
        self._progress(PullProgress(status, f"sha256:{target.digest}", total, completed))


def _hashes_to(blob: Path, digest: str) -> bool:
    """Whether a blob holds what its name says; False also when it is removed meanwhile."""
    try:
        return file_sha256(blob) == digest
    except FileNotFoundError:
        return False


def _listed(name: Name, catalogue: Catalogue) -> _Target:
    entry = catalogue.find(name)
    if entry is None:
        raise UnknownModel(
            f"model {str(name)!r} is not in the catalogue, which has {catalogue.names()}; "
            "models of Hugging Face are named org/repo or hf.co/org/repo:QUANTIZATION",
            param="model",
        )
    files = tuple(Wanted(file.path, file.size, file.sha256) for file in entry.files)
    opened = "" if entry.is_folder else files[0].path
    return _Target(entry.name, files, opened, entry.file, entry.sources)
