"""Opens a model, whatever its format, as a checkpoint: a card, metadata and weights by name.

The one place that knows which reader a path needs. It must not know how a network uses weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pagemill.checkpoint import Family, WeightSource
from pagemill.types import ModelCard
from pagemill.weights import translate
from pagemill.weights.card import read_card
from pagemill.weights.cursor import show
from pagemill.weights.folder import Folder
from pagemill.weights.gguf_parts import GGUFParts
from pagemill.weights.keys import MetadataKeys
from pagemill.weights.source import TensorSource
from pagemill.weights.stored import Plain


class Families(Protocol):
    """What networks there are: the package `pagemill.models`."""

    def family(self, architecture: str) -> Family: ...

    def family_of_class(self, name: str) -> Family: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open model. `metadata` has its settings and, of a GGUF file, its tokenizer and chat
    template; those of a folder are in files of the folder."""

    card: ModelCard
    metadata: Mapping[str, Any]
    source: WeightSource
    folder: Path | None = None


def open_model(path: str | Path, families: Families) -> Checkpoint:
    """Read everything but the weights, which stay in their files until they are asked for.

    `path` is a GGUF file or a folder with config.json and safetensors files. BadModelFile says what
    breaks the format, Unsupported what we know of but cannot run.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):  # not a path; the reader says so
        is_folder = False
    return _open_folder(path, families) if is_folder else _open_gguf(path, families)


def _open_gguf(path: Path, families: Families) -> Checkpoint:
    file = GGUFParts.open(path)
    name = show(path.name)
    general = MetadataKeys(file.metadata, name)
    architecture = general.text("general.architecture")
    family = families.family(architecture)
    card = read_card(general, file.tensors, name, family)
    tensors = {
        tensor: Plain(tensor, info.format, info.shape, info.nbytes, file.data)
        for tensor, info in file.tensors.items()
    }
    source = TensorSource(tensors, card, family, general.of(architecture), "gguf", name)
    return Checkpoint(card, file.metadata, source)


def _open_folder(path: Path, families: Families) -> Checkpoint:
    folder = Folder.open(path)
    family = families.family_of_class(translate.class_name(folder))
    metadata, general = translate.settings(folder, family)
    keys = general.of(family.name)
    tensors = translate.tensors(folder, family, keys)
    card = read_card(general, tensors, folder.name, family)
    others = translate.nameless(folder, family, tensors)
    source = TensorSource(tensors, card, family, keys, "safetensors", folder.name, others)
    return Checkpoint(card, metadata, source, path)
