"""What a model in a repository is, without its weights: the beginnings of its files.

A model's files are laid out in a folder as they would be after a pull, each of its full size, but
only headers and settings are fetched; the rest are holes. A reader of headers works on them as on
the real ones. Nothing here is checked against hashes, so nothing of it is ever kept or run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pagemill.errors import DownloadError, UnknownModel
from pagemill.hub.catalogue import Catalogue, Entry, HubSource
from pagemill.hub.huggingface import Selection, explain, open_repo, select
from pagemill.hub.names import Name
from pagemill.hub.remotes import Remotes, Timing
from pagemill.hub.sources import Wanted
from pagemill.hub.web import HttpStatus, Web

MAX_SETTINGS_BYTES = 16 << 20  # of one file that is fetched whole
MAX_HEADER_BYTES = 100 << 20  # of a safetensors file, by its definition
_LENGTH_BYTES = 8  # of a safetensors header
_NOT_NEEDED = ("tokenizer", "vocab", "merges", "tekken", "chat_template", "licen", "notice")


@contextmanager
def headers(
    name: Name,
    remotes: Remotes,
    header_bytes: int,
    *,
    memory: int = 0,
    timing: Timing | None = None,
) -> Iterator[Path]:
    """A path that opens like the model, for as long as the context lasts.

    Of a GGUF file `header_bytes` are fetched; a reader that misses some asks for more. Raises
    DownloadError, NotFound, Unsupported, UnknownModel.
    """
    source = hub_source(name)
    if remotes.offline:
        raise DownloadError(f"{name} is not on this machine and offline mode is on")
    with (
        Web(
            remotes.hf_endpoint, token=remotes.hf_token, timing=timing or Timing(attempts=2)
        ) as web,
        TemporaryDirectory(prefix="pagemill-") as folder,
    ):
        home = Path(folder)
        if source is not None:
            repo = open_repo(web, source.repo, source.revision)
            only = repo.wanted(source.file, source.file.rpartition("/")[2])
            chosen = Selection((only,), only.path, {only.path: source.file})
        else:
            repo = open_repo(web, name.model, name.revision)
            chosen = select(web, repo, name, memory)
        for wanted in chosen.files:
            place = chosen.paths[wanted.path]
            try:
                _lay_out(web, repo.url(web, place), wanted, home, header_bytes)
            except HttpStatus as error:
                raise explain(error, repo.name, path=place) from error
        yield home / chosen.entry


def hub_source(name: Name) -> HubSource | None:
    """Where a catalogue's model is that is one file of a repository; None for a repository itself.

    UnknownModel when the catalogue has no such entry, DownloadError when only wheels have it.
    """
    if name.kind == "hub":
        return None
    source = next((s for s in listed(name).sources if isinstance(s, HubSource) and s.file), None)
    if source is None:
        raise DownloadError(f"{name} comes in wheels, whose members cannot be read alone")
    return source


def listed(name: Name) -> Entry:
    """The catalogue's entry. UnknownModel when it has none."""
    catalogue = Catalogue.load()
    entry = catalogue.find(name)
    if entry is None:
        raise UnknownModel(f"model {str(name)!r} is not in the catalogue: {catalogue.names()}")
    return entry


def _lay_out(web: Web, url: str, wanted: Wanted, home: Path, header_bytes: int) -> None:
    base = wanted.path.rpartition("/")[2].lower()
    if base.startswith(_NOT_NEEDED):
        return
    if base.endswith(".gguf"):
        size = header_bytes
    elif base.endswith(".safetensors"):
        size = _safetensors_header(web, url, wanted)
    else:
        size = MAX_SETTINGS_BYTES
    path = home / wanted.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(web.beginning(url, min(size, wanted.size)) if wanted.size else b"")
        file.truncate(wanted.size)  # the rest is a hole


def _safetensors_header(web: Web, url: str, wanted: Wanted) -> int:
    """Where the header ends: it begins with its own length."""
    if wanted.size < _LENGTH_BYTES:
        return wanted.size
    [length] = struct.unpack("<Q", web.beginning(url, _LENGTH_BYTES))
    if length > MAX_HEADER_BYTES:
        raise DownloadError(
            f"{wanted.path} says that its header has {length} bytes, over {MAX_HEADER_BYTES}"
        )
    return _LENGTH_BYTES + int(length)
