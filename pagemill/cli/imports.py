"""`import`: models that are on this machine already, by their path or found in other programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pagemill.cli import text
from pagemill.cli.boundary import print_note
from pagemill.cli.models import open_store
from pagemill.errors import InvalidRequest, UnknownModel

if TYPE_CHECKING:
    from pagemill.config import Settings
    from pagemill.hub.local import LocalModel
    from pagemill.hub.names import Name
    from pagemill.hub.scan import Candidate
    from pagemill.hub.store import Store, StoredModel

NOTHING = "No models of other programs are on this machine."


def take(path: str, name: str, settings: Settings, *, copy: bool) -> str:
    """List the model at a path, under `name` or that of its file; what to say of it."""
    from pagemill.hub.local import look, name_from
    from pagemill.hub.names import Name

    if not path:
        raise InvalidRequest("name a file or folder to import, or --scan for what there is")
    model = look(Path(path).expanduser())
    if model is None:
        raise UnknownModel(f"there is no file or folder {path}")
    chosen = Name.parse(name, allow_files=False) if name else name_from(model)
    return _told(_add(open_store(settings), chosen, model, "import", "", copy=copy), copy=copy)


def scan(settings: Settings, wanted: Sequence[str], *, every: bool, copy: bool) -> str:
    """The table of what other programs have, or the lines of what was taken in of it."""
    from pagemill.hub.names import Name

    store = open_store(settings)
    found = _candidates(store)
    here = {
        Path(manifest.place) / manifest.entry: str(manifest.name)
        for manifest in store.manifests()
        if manifest.place
    }
    if not every and not wanted:
        return _table(found, here) if found else NOTHING
    keys = {Name.parse(name, allow_files=False).key: name for name in wanted}
    chosen = [c for c in found if c.name.key in keys or (every and c.model.path not in here)]
    for missing in keys.keys() - {candidate.name.key for candidate in chosen}:
        names = ", ".join(str(candidate.name) for candidate in found) or "nothing"
        raise UnknownModel(f"{keys[missing]!r} was not found in other programs; there is: {names}")
    lines = []
    for candidate in chosen:
        source = f"{candidate.cache.program}, {candidate.cache.root}"
        given = (candidate.name, candidate.model, source, candidate.sha256)
        lines.append(_told(_add(store, *given, copy=copy), copy=copy))
    return "\n".join(lines) or "Everything that was found is listed already."


def _candidates(store: Store) -> list[Candidate]:
    """What the scan finds, under names that nothing else has here."""
    from pagemill.hub.catalogue import Catalogue
    from pagemill.hub.scan import caches
    from pagemill.hub.scan import scan as look_around

    taken = {
        name.key for entry in Catalogue.load().entries for name in (entry.name, *entry.aliases)
    }
    taken |= {manifest.name.key for manifest in store.manifests() if not manifest.place}
    return look_around(caches(os.environ, Path.home()), taken)


def _table(found: Sequence[Candidate], here: Mapping[Path, str]) -> str:
    rows = [
        (
            str(candidate.name),
            text.size(candidate.model.size),
            candidate.model.kind,
            f"{candidate.cache.program}, {_short(candidate.cache.root)}",
            here.get(candidate.model.path, ""),
        )
        for candidate in found
    ]
    return text.table(("NAME", "SIZE", "FORMAT", "WHERE", "ADDED AS"), rows)


def _add(
    store: Store, name: Name, model: LocalModel, source: str, sha256: str, *, copy: bool
) -> StoredModel:
    from pagemill.hub.imports import copy_in, register

    if not copy:
        return register(store, name, model, source, sha256)
    return copy_in(store, name, model, source, copy_progress())


def copy_progress() -> Callable[[int, int], None]:
    """Tell every tenth of a copy."""
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal last
        tenth = 10 * done // max(1, total)
        if tenth != last:
            last = tenth
            print_note(f"copying: {text.size(done)} of {text.size(total)}")

    return report


def _told(model: StoredModel, *, copy: bool) -> str:
    how = "copied" if copy else "used where it lies"
    return f"{model.name} is ready ({text.size(model.size)}, {how}): `pagemill run {model.name}`"


def _short(path: Path) -> str:
    home = str(Path.home())
    return f"~{str(path)[len(home) :]}" if str(path).startswith(f"{home}/") else str(path)
