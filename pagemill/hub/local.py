"""Models that lie somewhere on this machine: which files of a path they are, which is opened.

Looks at names, sizes and at most the first bytes; nothing that could block (pipes, devices) is
opened. Knows no store.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pagemill.errors import InvalidRequest
from pagemill.hub import parts
from pagemill.hub.checks import checked_path
from pagemill.hub.disk import regular
from pagemill.hub.ggufs import Variant, split_names, variants
from pagemill.hub.names import Name

MAX_ENTRIES = 10_000  # of a folder; a model has hundreds at most
MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on disk. `place` is its file or folder; `paths` lie below it ("": the file itself).

    `entry` is the one of them that is opened, "" for the place itself.
    """

    place: Path
    entry: str
    paths: tuple[str, ...]
    size: int
    modified: float
    kind: str  # "GGUF" or "safetensors"

    @property
    def path(self) -> Path:
        """What is opened."""
        return self.place / self.entry


def look(path: Path) -> LocalModel | None:
    """The model at a path, or None when nothing is there.

    A folder is a model when it holds config.json and safetensors, or GGUF files of one model.
    Raises InvalidRequest for what is no model, and for more than one.
    """
    path = path.absolute()  # links are not followed: a link has the readable name
    if not os.path.lexists(path):
        return None
    if path.is_dir():
        models = models_in(path)
        if len(models) == 1:
            return models[0]
        if models:
            names = ", ".join(model.entry or model.place.name for model in models[:10])
            raise InvalidRequest(f"{path} holds {len(models)} models, name one: {names}")
        raise InvalidRequest(
            f"{path} is no model: a folder needs config.json and safetensors, or a GGUF file"
        )
    if regular(path) is None:
        raise InvalidRequest(f"{path} is neither a file nor a folder that can be read")
    if path.name.lower().endswith(".gguf"):
        return _file(path)
    if first_bytes(path) != MAGIC:
        raise InvalidRequest(f"{path} is no model: it does not begin with {MAGIC.decode()}")
    return _of({"": path}, path, "", "GGUF")


def models_in(folder: Path) -> list[LocalModel]:
    """The model of safetensors in a folder, if there is one, else each one of GGUF files."""
    files = _files(folder)
    if parts.CONFIG in files and parts.has_weights(files):
        kept = [*parts.small_files(files), *parts.weight_files(files, None)]
        chosen = {name: files[name] for name in dict.fromkeys(kept)}
        return [_of(chosen, folder, "", "safetensors")]
    sizes = {name: path.stat().st_size for name, path in files.items() if "/" not in name}
    return [_gguf(folder, variant) for variant in variants(sizes)]


def name_from(model: LocalModel) -> Name:
    """A short name for a model that has none: from its file or folder. InvalidRequest if odd."""
    title = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", model.path.name.lower())
    return Name.parse(re.sub(r"[^a-z0-9._-]+", "-", title).strip(".-_"), allow_files=False)


def first_bytes(path: Path) -> bytes:
    """The first four bytes of a regular file, or b""."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(handle, "rb") as file:
        return file.read(len(MAGIC)) if stat.S_ISREG(os.fstat(handle).st_mode) else b""


def _file(path: Path) -> LocalModel:
    """A GGUF file, with the files that it was split into, whichever of them was named."""
    names = split_names(path.name)
    there = {name: regular(path.with_name(name)) for name in names}
    sizes = {name: details.st_size for name, details in there.items() if details is not None}
    if names:
        return _gguf(path.parent, Variant("", tuple(sizes), sum(sizes.values()), len(names)))
    return _of({"": path}, path, "", "GGUF")


def _gguf(folder: Path, variant: Variant) -> LocalModel:
    if len(variant.files) != variant.expected:
        raise InvalidRequest(
            f"{folder / variant.files[0]} is split into {variant.expected} files, "
            f"{len(variant.files)} of them are there"
        )
    if variant.expected == 1:
        path = folder / variant.files[0]
        return _of({"": path}, path, "", "GGUF")
    return _of({name: folder / name for name in variant.files}, folder, variant.files[0], "GGUF")


def _of(files: Mapping[str, Path], place: Path, entry: str, kind: str) -> LocalModel:
    details = [path.stat() for path in files.values()]
    size, modified = sum(d.st_size for d in details), max(d.st_mtime for d in details)
    return LocalModel(place, entry, tuple(files), size, modified, kind)


def _files(folder: Path) -> dict[str, Path]:
    """Regular files of a folder, and of its folders that hold layers of a model."""
    found: dict[str, Path] = {}
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False) and parts.is_module(entry.name):
            found |= {f"{entry.name}/{inner.name}": Path(inner.path) for inner in _entries(path)}
        else:
            found[entry.name] = path
    return {name: path for name, path in found.items() if _plain(name) and regular(path)}


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            listed = list(islice(entries, MAX_ENTRIES + 1))
    except OSError as error:
        raise InvalidRequest(f"{folder}: {error.strerror or error}") from None
    if len(listed) > MAX_ENTRIES:
        raise InvalidRequest(f"{folder} holds more than {MAX_ENTRIES} files")
    return sorted(listed, key=lambda entry: entry.name)


def _plain(name: str) -> bool:
    try:
        checked_path(name)
    except ValueError:
        return False
    return True
