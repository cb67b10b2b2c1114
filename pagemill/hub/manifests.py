"""What is recorded of one stored model: its name, its files, and where they came from.

A manifest is a file on disk that anything may have changed, so its reader believes nothing. Knows
no disk: whether the files are there is for the store to say.

    schema 1   a model that is one blob: name, digest, size, source, modified
    schema 2   files beside each other ("files" and "entry", the one to open, "" for their folder),
               or files of somebody else that are used where they lie ("place" and "stamps")
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pagemill.errors import InvalidRequest
from pagemill.hub.checks import checked_hex, checked_path
from pagemill.hub.names import Name

SCHEMAS = (1, 2)  # a higher one was written by a newer Pagemill and is left alone
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 4096
MAX_TIME = 1e11  # seconds: year 5138


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a model: its path below the model's folder, and its bytes by name."""

    path: str
    sha256: str
    size: int
    git_id: str = ""  # known of small files that a hub names in no other way


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file that is used where it lies, as it was when it was registered."""

    path: str  # below the place; "" when the place is the file
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One listed model. It has `files`, whose bytes are ours, or `place` and `stamps`."""

    name: Name
    source: str
    modified: float
    files: tuple[StoredFile, ...] = ()
    entry: str = ""
    place: str = ""
    stamps: tuple[Stamp, ...] = ()
    known_sha256: str = ""  # of the one file at a place, where whoever put it there tells

    @property
    def is_blob(self) -> bool:
        """Whether the model is one blob, opened by the name of its bytes."""
        return len(self.files) == 1 and self.files[0].path == self.entry

    @property
    def digest(self) -> str:
        """The SHA-256 of the model's only file, or of the list of its files; "" if not known."""
        if self.place:
            return self.known_sha256
        if self.is_blob:
            return self.files[0].sha256
        lines = [f"{file.sha256} {file.size} {file.path}\n" for file in self.files]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    @property
    def size(self) -> int:
        """All its bytes."""
        return sum(file.size for file in self.files) + sum(stamp.size for stamp in self.stamps)

    def written(self) -> bytes:
        """The manifest as it lies on disk."""
        fields: dict[str, Any] = {"schema": 2, "name": str(self.name)}
        if self.is_blob:
            fields |= {"schema": 1, "digest": f"sha256:{self.digest}", "size": self.size}
        elif self.place:
            stamps = [[stamp.path, stamp.size, stamp.mtime_ns] for stamp in self.stamps]
            fields |= {"place": self.place, "stamps": stamps, "sha256": self.known_sha256}
            fields |= {"entry": self.entry}
        else:
            files = [[file.path, file.sha256, file.size, file.git_id] for file in self.files]
            fields |= {"files": files, "entry": self.entry}
        fields |= {"source": self.source, "modified": self.modified}
        return json.dumps(fields, indent=1).encode()


def read_manifest(raw: bytes) -> Manifest:
    """The manifest in these bytes; ValueError says what is wrong."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ValueError(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        fields: Any = json.loads(raw)
    except RecursionError as error:
        raise ValueError("the manifest is nested too deeply") from error
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if type(schema) is not int or schema not in SCHEMAS:
        raise ValueError(f"the manifest is not of a schema in {SCHEMAS}")
    try:
        return _manifest(fields, schema)
    except KeyError as error:
        raise ValueError(f"the manifest lacks {error}") from error
    except InvalidRequest as error:
        raise ValueError(error.message) from error


def _manifest(fields: Mapping[str, Any], schema: int) -> Manifest:
    name = Name.parse(_text(fields["name"]), allow_files=False)
    modified = fields.get("modified", 0.0)
    if type(modified) not in (int, float) or not 0 <= modified < MAX_TIME:  # refuses NaN as well
        raise ValueError("modified of the manifest is not a time")
    common = (name, _text(fields.get("source", "")), float(modified))
    if schema == 1:
        only = StoredFile(
            "model.gguf", checked_hex(_text(fields["digest"])), _number(fields["size"])
        )
        return Manifest(*common, files=(only,), entry=only.path)
    entry = _text(fields["entry"])
    if "place" in fields:
        place, sha256 = _text(fields["place"]), _text(fields["sha256"])
        if not PurePosixPath(place).is_absolute():
            raise ValueError("the place of the manifest is not absolute")
        stamps = tuple(_stamp(row) for row in _rows(fields["stamps"], 3))
        known = checked_hex(sha256) if sha256 else ""
        paths = [stamp.path for stamp in stamps]
        manifest = Manifest(*common, entry=entry, place=place, stamps=stamps, known_sha256=known)
    else:
        files = tuple(_file(row) for row in _rows(fields["files"], 4))
        paths = [file.path for file in files]
        manifest = Manifest(*common, files=files, entry=entry)
    if len(set(paths)) != len(paths) or (entry and entry not in paths):
        raise ValueError("the manifest names a file twice, or opens one that it has not")
    return manifest


def _rows(value: Any, width: int) -> list[list[Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_FILES:
        raise ValueError(f"the manifest must have 1 to {MAX_FILES} files")
    if not all(isinstance(row, list) and len(row) == width for row in value):
        raise ValueError(f"a file of the manifest is not a list of {width}")
    return value


def _file(row: list[Any]) -> StoredFile:
    path, sha256, size, git_id = row
    return StoredFile(
        checked_path(_text(path)), checked_hex(_text(sha256)), _number(size), _text(git_id)
    )


def _stamp(row: list[Any]) -> Stamp:
    path, size, mtime_ns = row
    shown = _text(path)
    return Stamp(shown and checked_path(shown), _number(size), _number(mtime_ns))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!a} of the manifest is not text")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:40]!a} of the manifest is not a number of bytes")
    return value
