"""Networks, each written once against `ops.interface`.

Owns the forward passes, which tensors and settings they take from a checkpoint, and what their
files look like. Must not know: how a file stores tensors, how an operation is computed, who asks.
No module here imports an array library.

A new architecture is a new module with two names: `MODEL`, the network's class, and `FAMILIES`,
what its files look like (see `pagemill.checkpoint`). The module is called as GGUF files call the
architecture, with "_" for "-". Nothing else is to be edited.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

from pagemill.checkpoint import Family, WeightSource
from pagemill.errors import UnknownArchitecture, Unsupported
from pagemill.ops.interface import Array, Ops, Step
from pagemill.types import ModelCard

# Modules that are parts of networks, not networks.
_SHARED = frozenset({"activations", "layers", "blocks", "mamba", "moe", "pooling", "rotary"})


class Layer(Protocol):
    """x (T, hidden) -> (T, hidden); its memory is `kv` at its own index."""

    def __call__(self, x: Array, step: Step, kv: Array) -> Array: ...


class Model(Protocol):
    """A network with its weights on a backend: `begin`, one layer after another, `end`."""

    layers: Sequence[Layer]  # those that its `WeightSource` has

    def begin(self, step: Step) -> Array:
        """(T, hidden): what the first layer reads."""
        ...

    def end(self, x: Array, step: Step) -> Array:
        """The result, from what the last layer wrote."""
        ...

    def __call__(self, step: Step, kv: Array) -> Array:
        """(S, V) logits of the sampled rows; stores the step's keys and values in `kv`. A network
        whose card has a `pooling` gives one vector (S, N) a row instead."""
        ...

    def new_kv(self, num_pages: int, page_size: int, num_slots: int = 0) -> Array:
        """Pages for this network's keys and values, zeroed. A network whose card has
        `state_elements` adds the recurrent states of `num_slots` sequences."""
        ...


def architectures() -> list[str]:
    """Names of the modules that are networks."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if name not in _SHARED)


def family(architecture: str) -> Family:
    """What files of an architecture look like, by GGUF's name. Unsupported lists what exists."""
    for known in _module(architecture).FAMILIES:
        if known.name == architecture:
            found: Family = known
            return found
    raise _unknown(architecture)


def family_of_class(name: str) -> Family:
    """The family of a class that config.json names. UnknownArchitecture lists what exists."""
    classes = []
    for architecture in architectures():
        for known in _module(architecture).FAMILIES:
            if name in known.classes:
                found: Family = known
                return found
            classes += known.classes
    raise UnknownArchitecture(
        f"architecture {ascii(name)[:64]} is not supported; supported: {', '.join(sorted(classes))}"
    )


def build(card: ModelCard, ops: Ops, source: WeightSource) -> Model:
    """The network that `card` describes, with its weights loaded.

    Unsupported lists what exists, or names a tensor that the network has no place for: one that is
    passed over in silence is a wrong answer.
    """
    model: Model = _module(card.architecture).MODEL(card, ops, source)
    unused = source.unused()
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise Unsupported(
            f"tensor {ascii(unused[0])[:80]}{more} has no place in architecture "
            f"{card.architecture!r}"
        )
    return model


def _module(architecture: str) -> ModuleType:
    name = architecture.replace("-", "_")
    if name not in architectures():
        raise _unknown(architecture)
    return importlib.import_module(f"{__name__}.{name}")


def _unknown(architecture: str) -> Unsupported:
    return Unsupported(
        f"architecture {ascii(architecture)[:64]} is not supported; "
        f"supported: {', '.join(architectures())}"
    )
