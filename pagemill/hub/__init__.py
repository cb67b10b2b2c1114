"""Models on this machine and where they come from: names, the catalogue, the store, downloads.

`resolve` takes what a user typed and follows the catalogue's aliases; `download.pull` fetches what
`resolve` does not find. Must not know: what is in a model file, and who will run it.
"""

from pathlib import Path

from pagemill.errors import UnknownModel
from pagemill.hub.catalogue import Catalogue
from pagemill.hub.local import look
from pagemill.hub.names import Name
from pagemill.hub.store import Store, StoredModel


def resolve(text: str, store: Store, *, allow_files: bool = True) -> StoredModel | None:
    """The local model that a name means, or None when it must be pulled. Never uses a network.

    A file or folder of this machine is its own model, with an empty digest. Pass
    `allow_files=False` for names that arrive over the network. Raises InvalidRequest for what is
    no name or no model, and UnknownModel for an imported model whose files are gone.
    """
    name = Name.parse(text, allow_files=allow_files)
    if name.kind != "file":
        name = Catalogue.load().canonical(name)
        found = store.find(name)
        if found is None and allow_files and (reason := store.trouble_in_place(name)):
            raise UnknownModel(f"{reason}; `pagemill rm {name}` forgets it", param="model")
        return found
    model = look(Path(name.model).expanduser())
    if model is None:
        return None
    return StoredModel(name, model.path, "", model.size, model.modified, "file")
