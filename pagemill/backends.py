"""Which backend computes, where nobody said.

Loads none of them: it looks at what is installed, and what the machine has. Must not know: how a
backend computes.
"""

import importlib.util
from dataclasses import replace

from pagemill import gpus
from pagemill.config import EngineConfig
from pagemill.types import ModelCard


def with_backend(config: EngineConfig, card: ModelCard | None = None) -> EngineConfig:
    """`config` with the backend "auto" resolved: the library that computes the network of `card`,
    or what computes on the device that was asked for; a GPU, where one can be used; native
    kernels, where they were built."""
    if config.backend != "auto":
        return config
    if card is not None and card.through:
        return replace(config, backend=card.through)
    if config.device == "mps":
        return replace(config, backend="torch")
    if config.device.startswith("cuda") or (config.device == "auto" and gpus.usable()):
        return replace(config, backend="cuda")
    native = importlib.util.find_spec("pagemill._native") is not None
    return replace(config, backend="cpu" if native else "reference")
