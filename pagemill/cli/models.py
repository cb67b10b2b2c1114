"""The models on this machine: pull, list, verify, rm. Works without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from pagemill.cli import text
from pagemill.errors import InvalidRequest, UnknownModel

if TYPE_CHECKING:
    from pagemill.config import Settings
    from pagemill.hub.remotes import Remotes
    from pagemill.hub.store import Store, StoredModel


class Named(Protocol):
    """Anything with a model's name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)

ID_LEN = 12


def open_store(settings: Settings) -> Store:
    """The store that the settings name."""
    from pagemill.hub.store import Store

    return Store(settings.hub.home)


def pull(name: str, settings: Settings) -> StoredModel:
    """Download a model (or go on with it), showing how far it is. Complete ones are checked."""
    from pagemill.cli.progress import byte_progress
    from pagemill.hub.download import pull as download
    from pagemill.hub.names import Name
    from pagemill.machine import this_machine

    remotes = remotes_of(settings)
    with byte_progress() as report:
        return download(
            Name.parse(name),
            open_store(settings),
            remotes=remotes,
            progress=report,
            memory=this_machine().available_bytes,
        )


def remotes_of(settings: Settings) -> Remotes:
    """The places that the settings name."""
    from pagemill.hub.remotes import Remotes

    hub = settings.hub
    mirror = Path(hub.mirror).expanduser() if hub.mirror else None
    return Remotes(hub.index_url, hub.hf_endpoint, hub.hf_token, mirror=mirror, offline=hub.offline)


def at_revision(names: Sequence[str], revision: str) -> list[str]:
    """The same repositories at a revision, if one is given. InvalidRequest for other names."""
    from pagemill.hub.names import Name

    return [str(Name.parse(name).at(revision)) if revision else name for name in names]


def local(name: str, settings: Settings) -> StoredModel | None:
    """The model if it is here: in the store, or a file or folder."""
    from pagemill.hub import resolve

    return resolve(name, open_store(settings))


def ensure(name: str, settings: Settings) -> StoredModel:
    """The model, pulled if it is not here yet. A path with nothing there cannot be pulled."""
    return local(name, settings) or (
        required(name, settings) if is_file(name) else pull(name, settings)
    )


def required(name: str, settings: Settings) -> StoredModel:
    """The model if it is here; else an error that says how to get it."""
    found = local(name, settings)
    if found is None and is_file(name):
        raise UnknownModel(f"there is no file or folder {name}")
    if found is None:
        raise UnknownModel(f"{name!r} is not on this machine; `pagemill pull {name}` fetches it")
    return found


def is_file(name: str) -> bool:
    """Whether the name means a path. Raises InvalidRequest for what is no name."""
    from pagemill.hub.names import Name

    return Name.parse(name).kind == "file"


def matching(name: str, there: Sequence[N]) -> N | None:
    """The one that `name` means, however either of them is spelled."""
    wanted = canonical(name)
    return next((one for one in there if canonical(one.name) == wanted), None)


def canonical(name: str) -> str:
    """The full spelling of a model name; names that are not ours stay as they are."""
    from pagemill.hub.catalogue import Catalogue
    from pagemill.hub.names import Name

    try:
        return str(Catalogue.load().canonical(Name.parse(name)))
    except InvalidRequest:
        return name


def short_id(model: StoredModel) -> str:
    """The first digits of the digest, enough to tell models apart."""
    return model.digest.removeprefix("sha256:")[:ID_LEN] or "-"


def list_table(models: list[StoredModel]) -> str:
    """The table of `list`."""
    rows = [
        (str(model.name), short_id(model), text.size(model.size), text.age(model.modified))
        for model in sorted(models, key=lambda model: -model.modified)
    ]
    return text.table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def remove(names: list[str], settings: Settings) -> list[str]:
    """Unlist models; all names are looked up before the first goes. Broken ones go as well."""
    from pagemill.hub.catalogue import Catalogue
    from pagemill.hub.names import Name

    store, catalogue = open_store(settings), Catalogue.load()
    found = [catalogue.canonical(Name.parse(name)) for name in names]
    for name in found:
        if name.kind == "file":
            raise UnknownModel(f"{name} is a path of yours, not in the store; delete it yourself")
        if not store.lists(name):
            raise UnknownModel(
                f"{str(name)!r} is not on this machine; `pagemill list` says what is"
            )
    for name in found:
        store.remove(name)
    return [str(name) for name in found]


def verify(settings: Settings) -> tuple[str, bool]:
    """The report of `verify`, and whether every model is whole."""
    store = open_store(settings)
    damages = store.verify()
    lines = [f"{damage.name}: {damage.reason}" for damage in damages]
    damaged = {damage.name for damage in damages}
    whole = [model for model in store.list() if str(model.name) not in damaged]
    lines.append(f"{len(whole)} whole, {len(damaged)} damaged (`pagemill pull NAME` repairs)")
    return "\n".join(lines if damages else [f"{len(whole)} whole"]), not damages
