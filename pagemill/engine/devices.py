"""What planning must know of where a backend computes: its memory, and how much it does at once.

Standard library only. Must not know: how a device is found or used.
"""

import math
import re
from dataclasses import dataclass, replace

from pagemill.errors import ConfigError
from pagemill.types import Machine, ModelCard

TORCH_BACKENDS = ("cuda", "torch")  # compute on tensors, in one type
CONTEXT_BYTES = 600 << 20  # of a card, for the driver's context and the libraries' scratch
TORCH_BYTES = 400 << 20  # of the host, for torch itself; measured without a GPU
CODES_SHARE = 1.15  # of a quantized file, in a layout for tensors: padding, scales as floats
_TURNS = 2  # sets of tensors that weights of the host come to
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Habits:
    """What is planned where nobody asked: requests at once, tokens of a step, and the share of the
    memory left that the cache may take; `fills`: it takes that share whatever is needed.
    Networks of more than `large` parameters take half as many tokens: whoever talks waits for a
    step, and prompts gain little from longer ones."""

    num_seqs: int
    batched_tokens: int
    kv_share: float
    fills: bool = False
    large: float = math.inf


ON_HOST = Habits(num_seqs=64, batched_tokens=256, kv_share=0.4, large=400e6)
ON_GPU = Habits(num_seqs=256, batched_tokens=2048, kv_share=1.0, fills=True)


def device_of(backend: str, device: str) -> str:
    """Where a backend computes; "" for those that know no devices. ConfigError for what is no
    device, or does not go together."""
    if not _DEVICE.fullmatch(device):
        raise ConfigError(
            f"device is {device!r:.100}; it must be auto, cuda, cuda:1 (and so on), mps or cpu",
            param="device",
        )
    if backend not in TORCH_BACKENDS:
        if device not in ("auto", "cpu"):
            raise ConfigError(
                f"device is {device}; the {backend} backend computes on the CPU: "
                f"--backend {'cuda' if is_gpu(device) else 'torch'} takes a device",
                param="device",
            )
        return ""
    if backend == "cuda":
        if device != "auto" and not is_gpu(device):
            raise ConfigError(
                f"device is {device}; the cuda backend takes cuda or cuda:1 (and so on), "
                f"--backend torch takes {device}",
                param="device",
            )
        return "cuda" if device == "auto" else device
    return "cpu" if device == "auto" else device


def is_gpu(device: str) -> bool:
    """Whether it is a card with memory of its own."""
    return device.startswith("cuda")


def habits_of(device: str) -> Habits:
    return ON_GPU if is_gpu(device) else ON_HOST


def with_memory_of(
    machine: Machine, device: str, num_ranks: int = 1, share: float = 0.9
) -> Machine:
    """The machine as a plan for that device sees it: of a card, that share of its memory. Ranks
    have a card each, and as much of it as the smallest has. ConfigError where no such card is."""
    if not is_gpu(device):
        return machine
    first = int(device.partition(":")[2] or 0)
    cards = machine.gpus[first : first + num_ranks]
    if len(cards) < num_ranks:
        there = ", ".join(gpu.name for gpu in machine.gpus) or "none"
        needed = f" for {num_ranks} ranks" if num_ranks > 1 else ""
        raise ConfigError(
            f"device is {device}{needed}; GPUs that can be seen here: {there}; `pagemill doctor` "
            "says more",
            param="device",
        )
    of_one = min(min(gpu.available_bytes, int(share * gpu.memory_bytes)) for gpu in cards)
    total = sum(gpu.memory_bytes for gpu in cards)
    return replace(machine, memory_bytes=total, available_bytes=num_ranks * of_one)


@dataclass(frozen=True, slots=True)
class Placed:
    """Weights on a device. `gpu_layers`: those from this number on stay on the host; -1: none."""

    gpu_layers: int
    device_bytes: int
    host_bytes: int = 0


def place_layers(asked: int, card: ModelCard, device: str, weights_bytes: int, room: int) -> Placed:
    """Which layers keep their weights on a card that has `room` bytes for weights and a little
    cache. Layers of the host take turns with two that they come to. `asked` -1: as few there as
    need be. ConfigError where layers were asked for and cannot be divided."""
    if not is_gpu(device):
        if asked >= 0:
            raise ConfigError(
                f"gpu_layers is {asked}; it is for networks on a GPU (--backend cuda)",
                param="gpu_layers",
            )
        return Placed(-1, weights_bytes)
    tables = (1 if card.tied_embeddings else 2) * card.vocab_size * card.hidden_size
    of_tables = int(weights_bytes * min(1.0, tables / max(1, card.parameters)))
    of_layer = -(-(weights_bytes - of_tables) // max(1, card.layers))
    fitting = asked
    if asked < 0:
        fits = weights_bytes <= room or of_tables + _TURNS * of_layer > room
        fitting = card.layers if fits else (room - of_tables) // of_layer - _TURNS
    if fitting >= card.layers:
        return Placed(-1, weights_bytes)
    there = min(card.layers, fitting + _TURNS)
    return Placed(fitting, of_tables + there * of_layer, (card.layers - fitting) * of_layer)


def dtype_of(device: str, dtype: str) -> str:
    """What a torch backend computes in. Of a GPU "auto" may be float16, too, which is as large."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if is_gpu(device) else "float16" if device == "mps" else "float32"


def element_size(backend: str, dtype: str) -> int:
    """Bytes of a number that a backend computes in: of weights that are not quantized, and of keys
    and values."""
    if backend in TORCH_BACKENDS and dtype != "auto":
        return 4 if dtype == "float32" else 2
    return 2 if backend in ("cpu", "cuda") else 4
