"""`pagemill create`: a model made from another, with its own settings, weights, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pagemill.cli.imports import copy_progress
from pagemill.cli.models import ensure, open_store
from pagemill.cli.quantize import checked_type, write
from pagemill.cli.text import size
from pagemill.errors import InvalidRequest, Unsupported

if TYPE_CHECKING:
    from pagemill.config import Settings
    from pagemill.hub.manifests import StoredFile
    from pagemill.hub.names import Name
    from pagemill.hub.store import Store, StoredModel
    from pagemill.text.modelfile import Modelfile
    from pagemill.text.overlay import Overlay
    from pagemill.weights.mixtures import Mixture


class Order(NamedTuple):
    """What to make: `base` or `modelfile` is there; `type_` may be."""

    name: str
    base: str
    modelfile: Path | None
    type_: str


def create(order: Order, settings: Settings) -> str:
    """List a new model in the store; what to say of it."""
    from msgspec.structs import replace

    from pagemill.hub import creation
    from pagemill.text.overlay import FILE

    if bool(order.base) == bool(order.modelfile):
        raise InvalidRequest("name the model to begin with: --from MODEL, or -f Modelfile")
    store = open_store(settings)
    name = creation.new_name(store, order.name)
    type_ = checked_type(order.type_) if order.type_ else None
    wanted = _read(order)
    base = ensure(_base(wanted.base, order.modelfile), settings)
    overlay = _overlay(base, wanted)
    files, entry = _weights(store, name, base, type_)
    if overlay.says_something:
        folder, _, file = entry.rpartition("/")
        raw = replace(overlay, model=file).written()
        place = f"{folder}/{FILE}" if folder else FILE
        files = [*files, creation.take_bytes(store, name, place, raw)]
    made = creation.add(store, name, files, entry, f"created from {base.name}")
    return f"{made.name} is ready ({size(made.size)}): `pagemill run {made.name}`"


def _read(order: Order) -> Modelfile:
    from pagemill.text.modelfile import Modelfile, read_modelfile
    from pagemill.text.overlay import Overlay

    if order.modelfile is not None:
        return read_modelfile(order.modelfile)
    return Modelfile(order.base, Overlay(order.base))


def _base(text: str, modelfile: Path | None) -> str:
    """A path in a Modelfile is meant from where the file lies."""
    if modelfile is None or text.startswith(("/", "~")):
        return text
    there = modelfile.absolute().parent / text
    is_model = there.is_file() or (there / "config.json").is_file()
    return str(there) if is_model or text.startswith(".") else text


def _overlay(base: StoredModel, wanted: Modelfile) -> Overlay:
    """What the new model says beside its weights: its own words, then those of its base."""
    from msgspec.structs import replace

    from pagemill.text.overlay import read_overlay

    ids = _stop_ids(base, wanted.stops) if wanted.stops else ()
    own = replace(wanted.overlay, base=str(base.name), stop_ids=ids)
    return own.over(read_overlay(base.path))


def _stop_ids(base: StoredModel, stops: tuple[tuple[int, str], ...]) -> tuple[int, ...]:
    """Texts that end an answer as ids: only special tokens can be a model's own."""
    from pagemill import models
    from pagemill.text.tokenizer import Tokenizer
    from pagemill.weights.load import open_model

    if base.path.is_dir():
        tokenizer = Tokenizer.from_folder(base.path)
    else:
        tokenizer = Tokenizer.from_gguf(open_model(base.path, models).metadata)
    for line, text in stops:
        if text not in tokenizer.special_tokens:
            raise Unsupported(
                f"line {line}: PARAMETER stop {ascii(text)[:80]} cannot be honoured: of this "
                "model's answers only its special tokens are an end; requests may name others"
            )
    return tuple(tokenizer.special_tokens[text] for _, text in stops)


def _weights(
    store: Store, name: Name, base: StoredModel, type_: Mixture | None
) -> tuple[list[StoredFile], str]:
    """The files of the new model, as blobs, and the one that is opened."""
    from pagemill.hub import creation
    from pagemill.text.overlay import FILE

    if type_ is None:
        return creation.files_of(store, base, name, FILE, copy_progress())
    with creation.new_file(store, name) as place:
        write(base, place, type_, name=str(name), overwrite=True)
        return [creation.take_file(store, place)], creation.NEW_FILE
