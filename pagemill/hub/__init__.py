"""Models on this machine and where they come from: names, the catalogue, the store, downloads.

`resolve` takes what a user typed and follows the catalogue's aliases; `download.pull` fetches what
`resolve` does not find. Must not know: what is in a model file, and who will run it.
"""

from pathlib import Path

from pagemill.hub.catalogue import Catalogue
from pagemill.hub.names import Name
from pagemill.hub.store import Store, StoredModel


def resolve(text: str, store: Store, *, allow_files: bool = True) -> StoredModel | None:
    """The local model that a name means, or None when it must be pulled. Never uses a network.

    A file on this machine is its own model, with an empty digest. Pass `allow_files=False` for
    names that arrive over the network. Raises InvalidRequest for what is no name.
    """
    name = Name.parse(text, allow_files=allow_files)
    if name.kind != "file":
        return store.find(Catalogue.load().canonical(name))
    path = Path(name.model).expanduser()
    if not path.is_file():
        return None
    details = path.stat()
    # Links are not followed: a link has the readable name, its target perhaps a digest.
    return StoredModel(name, path.absolute(), "", details.st_size, details.st_mtime, "file")
