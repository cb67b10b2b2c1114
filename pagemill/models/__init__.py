"""Networks, each written once against `ops.interface`.

Owns the forward passes and which tensors they take from a checkpoint. Must not know: how a file
stores tensors, how an operation is computed, who asks. No module here imports an array library.

A new architecture is a new module whose name is the architecture's name in model files and whose
`MODEL` is the network's class. Nothing else is to be edited.
"""

import importlib
import pkgutil
from typing import Protocol

from pagemill.errors import Unsupported
from pagemill.ops.interface import Array, Ops, Step, WeightSource
from pagemill.types import ModelCard

_SHARED = frozenset({"layers"})  # modules that are parts of networks, not networks


class Model(Protocol):
    """A network with its weights on a backend."""

    def __call__(self, step: Step, kv: Array) -> Array:
        """(S, V) logits of the sampled rows; stores the step's keys and values in `kv`."""
        ...

    def new_kv(self, num_pages: int, page_size: int) -> Array:
        """Pages for this network's keys and values, zeroed."""
        ...


def architectures() -> list[str]:
    """Names of the architectures that exist, as model files write them."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if name not in _SHARED)


def build(card: ModelCard, ops: Ops, source: WeightSource) -> Model:
    """The network that `card` describes, with its weights loaded. Unsupported lists what exists."""
    if card.architecture not in architectures():
        raise Unsupported(
            f"architecture {card.architecture!r} is not supported; "
            f"supported: {', '.join(architectures())}"
        )
    module = importlib.import_module(f"{__name__}.{card.architecture}")
    model: Model = module.MODEL.load(card, ops, source)
    return model
