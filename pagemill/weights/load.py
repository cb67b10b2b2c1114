"""Opens a model file, whatever its format, as a checkpoint: a card, metadata and weights by name.

The one place that knows which reader a path needs. It must not know how a network uses weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pagemill.checkpoint import Family, WeightSource
from pagemill.types import ModelCard
from pagemill.weights.card import read_card
from pagemill.weights.cursor import show
from pagemill.weights.gguf_parts import GGUFParts
from pagemill.weights.gguf_source import GGUFSource
from pagemill.weights.keys import MetadataKeys


class Families(Protocol):
    """What networks there are: the package `pagemill.models`."""

    def family(self, architecture: str) -> Family: ...

    def family_of_class(self, name: str) -> Family: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An open model file. `metadata` holds its tokenizer and chat template."""

    card: ModelCard
    metadata: Mapping[str, Any]
    source: WeightSource


def open_model(path: str | Path, families: Families) -> Checkpoint:
    """Read everything but the weights, which stay in the file until they are asked for.

    BadModelFile says what breaks the format, Unsupported what we know of but cannot run.
    """
    file = GGUFParts.open(path)
    name = show(Path(path).name)
    keys = MetadataKeys(file.metadata, name)
    architecture = keys.text("general.architecture")
    family = families.family(architecture)
    card = read_card(file.metadata, file.tensors, name, family)
    source = GGUFSource(file, card, family, keys.of(architecture), name)
    return Checkpoint(card, file.metadata, source)
