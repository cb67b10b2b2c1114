"""Layers whose weights stay in the host's memory, for networks larger than a card.

Before such a layer computes, its weights come to the device, into tensors that layers take turns
with; while it computes, those of the next one are on their way. Two sets of tensors are enough. So
every layer computes on the device, with the same kernels and to the same bits, whoever has its
weights. Why not on the CPU: docs/gpu.md has the arithmetic.

Must not know: which network it is, how a layout computes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from pagemill.ops.interface import Array, Step
from pagemill.ops.plain.pinned import pinned

_SETS = 2


class Transfers(Protocol):
    """How weights come to a device: `CudaTransfers`, or a fake."""

    def keep(self, tensor: Tensor) -> Tensor:
        """A tensor in memory of the host that the device can read."""
        ...

    def begin(self, pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        """Begin to copy (to, from) when all that was asked of the device so far is done. Calling
        the result lets the device wait for it before whatever is asked next."""
        ...


class CudaTransfers:
    """Copies on a stream of their own. ROCm answers to the same names."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)

    def keep(self, tensor: Tensor) -> Tensor:
        here = pinned(tensor.nbytes, self._device).view(tensor.dtype).view(tensor.shape)
        return here.copy_(tensor)

    def begin(self, pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for to, there in pairs:
                to.copy_(there, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self._stream)
        return lambda: torch.cuda.current_stream(self._device).wait_event(done)


@dataclass(slots=True)
class _Layer:
    """A layer's weights in the host's memory."""

    set: int  # of tensors on the device that its weights come to
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class HostLayers:
    """Layers from number `first` on."""

    def __init__(self, first: int, device: torch.device, transfers: Transfers) -> None:
        self.first = first
        self._device, self._transfers = device, transfers
        self._layers: dict[int, _Layer] = {}
        self._sets: list[dict[Any, Tensor]] = [{} for _ in range(_SETS)]
        self._holds: list[int | None] = [None] * _SETS  # which layer's weights, or will soon
        self._waits: list[Callable[[], None]] = [_nothing] * _SETS

    @property
    def nbytes(self) -> int:
        """Of all their weights, on the host."""
        return sum(here.nbytes for layer in self._layers.values() for _, here in layer.pairs)

    def has(self, layer: int | None) -> bool:
        """Whether that layer's weights belong here; None is of no layer."""
        return layer is not None and layer >= self.first

    def take(self, index: int | None, matrix: Any) -> Any:
        """Take over a matrix of a layer, made on the CPU: the same with tensors on the device,
        which hold its numbers while the layer computes."""
        assert index is not None
        layer = self._layers.setdefault(index, _Layer(len(self._layers) % _SETS))

        def place(tensor: Tensor) -> Tensor:
            # Layers are alike, so the n-th tensor of one takes turns with that of others.
            place = (len(layer.pairs), tensor.shape, tensor.dtype)
            there = self._sets[layer.set].get(place)
            if there is None:
                there = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
                self._sets[layer.set][place] = there
            layer.pairs.append((there, self._transfers.keep(tensor)))
            return there

        return _with_tensors(matrix, place)

    def attach(self, layers: list[Any]) -> list[Any]:
        """The layers of a network, of which some fetch their weights first."""
        return [
            _Fetching(layer, self, index) if index in self._layers else layer
            for index, layer in enumerate(layers)
        ]

    def fetch(self, index: int) -> None:
        """Let the device wait until a layer's weights are there, and begin with the next one's."""
        self._begin(index)
        self._waits[self._layers[index].set]()
        order = list(self._layers)
        follower = order[(order.index(index) + 1) % len(order)]  # after the last: the next step's
        if self._layers[follower].set != self._layers[index].set:
            self._begin(follower)

    def _begin(self, index: int) -> None:
        layer = self._layers[index]
        if self._holds[layer.set] != index:
            self._holds[layer.set] = index
            self._waits[layer.set] = self._transfers.begin(layer.pairs)


@dataclass(frozen=True, slots=True)
class _Fetching:
    """A layer that fetches its weights before it computes."""

    layer: Any
    host: HostLayers
    index: int

    def __call__(self, x: Array, step: Step, kv: Array) -> Array:
        self.host.fetch(self.index)
        return self.layer(x, step, kv)


def _with_tensors(matrix: Any, place: Callable[[Tensor], Tensor]) -> Any:
    """A matrix of the same layout, each of whose tensors `place` has changed."""
    made = copy.copy(matrix)
    names = getattr(matrix, "__dict__", None) or matrix.__dataclass_fields__
    for name in list(names):
        value = getattr(matrix, name)
        if isinstance(value, Tensor):
            object.__setattr__(made, name, place(value))
        elif isinstance(value, tuple) and value and hasattr(value[0], "product"):
            parts = tuple(_with_tensors(part, place) for part in value)
            object.__setattr__(made, name, parts)
    return made


def _nothing() -> None:
    pass
