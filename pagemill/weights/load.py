"""Opens a model, whatever its format, as a checkpoint: a card, metadata and weights by name.

The one place that knows which reader a path needs. It must not know how a network uses weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pagemill.checkpoint import Family
from pagemill.types import ModelCard
from pagemill.weights import translate
from pagemill.weights.card import read_card
from pagemill.weights.cursor import show
from pagemill.weights.folder import Folder
from pagemill.weights.gguf_parts import GGUFParts
from pagemill.weights.keys import MetadataKeys
from pagemill.weights.precision import Precision
from pagemill.weights.source import Names, TensorSource
from pagemill.weights.stored import Plain


class Families(Protocol):
    """What networks there are: the package `pagemill.models`."""

    def family(self, architecture: str) -> Family: ...

    def family_of_class(self, name: str) -> Family: ...


_AS_STORED = Precision()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open model. `metadata` has its settings and, of a GGUF file, its tokenizer and chat
    template; those of a folder are in files of the folder."""

    card: ModelCard
    metadata: Mapping[str, Any]
    source: TensorSource
    folder: Path | None = None


def open_model(
    path: str | Path, families: Families, precision: Precision = _AS_STORED
) -> Checkpoint:
    """Read everything but the weights, which stay in their files until they are asked for.

    `path` is a GGUF file or a folder with config.json and safetensors files. BadModelFile says what
    breaks the format, Unsupported what we know of but cannot run.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):  # not a path; the reader says so
        is_folder = False
    return (_open_folder if is_folder else _open_gguf)(path, families, precision)


def _open_gguf(path: Path, families: Families, precision: Precision) -> Checkpoint:
    file = GGUFParts.open(path)
    name = show(path.name)
    general = MetadataKeys(file.metadata, name)
    architecture = general.text("general.architecture")
    family = families.family(architecture)
    stored = {
        tensor: Plain(tensor, info.format, info.shape, info.nbytes, file.data)
        for tensor, info in file.tensors.items()
    }
    tensors = precision.apply(stored, name)
    card = read_card(general, tensors, name, family)
    source = TensorSource(tensors, card, family, general.of(architecture), "gguf", Names(name))
    return Checkpoint(card, file.metadata, source)


def _open_folder(path: Path, families: Families, precision: Precision) -> Checkpoint:
    folder = Folder.open(path)
    family = families.family_of_class(translate.class_name(folder))
    metadata, general = translate.settings(folder, family)
    keys = general.of(family.name)
    stored, absent = translate.tensors(folder, family, keys)
    others = translate.nameless(folder, family, stored)
    tensors = precision.apply(stored, folder.name)
    card = read_card(general, tensors, folder.name, family)
    names = Names(folder.name, others, absent)
    source = TensorSource(tensors, card, family, keys, "safetensors", names)
    return Checkpoint(card, metadata, source, path)
