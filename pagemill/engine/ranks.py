"""Planning for several ranks: whether a network divides among them, and what that takes.

Standard library only, as all planning.
"""

from dataclasses import replace
from typing import Final, Protocol

from pagemill.errors import ConfigError
from pagemill.types import Footprint, ModelCard

BACKENDS: Final = ("reference", "torch", "cuda")  # that can be ranks
MOST_RANKS: Final = 64
RANK_BYTES: Final = 220 << 20  # of a process with torch in it, measured


class RankSettings(Protocol):
    """How many ranks are asked for."""

    @property
    def tensor_parallel_size(self) -> int: ...
    @property
    def pipeline_parallel_size(self) -> int: ...
    @property
    def kv_offload_bytes(self) -> int: ...


def count(config: RankSettings) -> int:
    """Processes that compute."""
    return config.tensor_parallel_size * config.pipeline_parallel_size


def several(config: RankSettings) -> bool:
    """Whether it is more than one."""
    return count(config) > 1


def shared(config: RankSettings, card: ModelCard, backend: str, footprint: Footprint) -> Footprint:
    """What all ranks take together: processes, and keys and values that several of them have.
    ConfigError for a network that does not divide so, or a backend that has no ranks."""
    _check(config, card, backend)
    tensor, pipeline = config.tensor_parallel_size, config.pipeline_parallel_size
    if not several(config):
        return footprint
    copies = tensor // min(tensor, card.kv_heads)
    of_rank = 0 if backend == "cuda" else RANK_BYTES  # the memory of cards is planned there
    return replace(
        footprint,
        kv_token_bytes=footprint.kv_token_bytes * copies,
        process_bytes=footprint.process_bytes + tensor * pipeline * of_rank,
    )


def _check(config: RankSettings, card: ModelCard, backend: str) -> None:
    tensor, pipeline = config.tensor_parallel_size, config.pipeline_parallel_size
    for setting, size in (("tensor_parallel_size", tensor), ("pipeline_parallel_size", pipeline)):
        if not 1 <= size <= MOST_RANKS:
            raise _refused(setting, size, f"it must be in 1..{MOST_RANKS}")
        if size > 1 and backend not in BACKENDS:
            raise _refused(
                setting,
                size,
                f"the {backend} backend computes in one process, only {', '.join(BACKENDS)} can "
                f"have several",
            )
    if tensor * pipeline > MOST_RANKS:
        raise _refused(
            "pipeline_parallel_size", pipeline, f"{tensor * pipeline} ranks are too many"
        )
    if tensor * pipeline > 1 and config.kv_offload_bytes:
        raise ConfigError(
            "kv_offload_gib is set; ranks are told steps only, so pages of several stay where they "
            "are",
            param="kv_offload_gib",
        )
    if pipeline > card.layers:
        raise _refused("pipeline_parallel_size", pipeline, f"the model has {card.layers} layers")
    for count, what in (
        (card.heads, "heads"),
        (card.ffn_size, "elements of a layer's inner width"),
    ):
        if count % tensor:
            raise _refused(
                "tensor_parallel_size", tensor, f"the model's {count} {what} do not divide so"
            )
    fewer, more = sorted((card.kv_heads, tensor))
    if more % fewer:
        raise _refused(
            "tensor_parallel_size",
            tensor,
            f"the model's {card.kv_heads} heads of keys and values neither divide among so many "
            f"ranks nor can so many share them evenly",
        )


def _refused(setting: str, size: int, why: str) -> ConfigError:
    return ConfigError(f"{setting} is {size}; {why}", param=setting)
