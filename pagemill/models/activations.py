"""Activations by the names that files have for them. Must not know: which network it is part of."""

from collections.abc import Mapping
from types import MappingProxyType

from pagemill.checkpoint import Keys
from pagemill.ops.interface import Activation

_BY_NAME: Mapping[str, Activation] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_fast": "gelu_tanh",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "relu": "relu",
        "silu": "silu",
        "swiglu": "silu",
        "swish": "silu",
        "tanh": "tanh",
    }
)


def read_activation(keys: Keys, key: str, default: Activation) -> Activation:
    """The activation that a file names; of a file that names none, the network's own."""
    if not keys.has(key):
        return default
    name = keys.text(key)
    if name not in _BY_NAME:
        choices = ", ".join(_BY_NAME)
        raise keys.unsupported(key, f"{name[:64]!r} cannot be run, only {choices}")
    return _BY_NAME[name]
