"""What sequences keep between steps: pages of keys and values, and recurrent states.

Each tensor has one page, or slot, more than anybody is given: it takes what is written to slot -1,
which is how rows that only fill a batch up say that they keep nothing.

In eight bits each stored head vector has a scale of its own. Must not know: who attends.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

# Of a type of eight bits: the largest number that it holds.
_LARGEST = MappingProxyType({torch.int8: 127.0, torch.float8_e4m3fn: 448.0})
KV_DTYPES = MappingProxyType(
    {
        "f16": torch.float16,
        "bf16": torch.bfloat16,
        "f32": torch.float32,
        "q8": torch.int8,
        "fp8": torch.float8_e4m3fn,
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerCache:
    """One layer's pages: keys and values (pages, page_size, G, D). In eight bits also float32
    scales (pages, page_size, G)."""

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    @property
    def page_size(self) -> int:
        return int(self.keys.shape[1])

    def store(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """k, v (T, G, D) into slots (T,)."""
        _store(self.keys, self.key_scales, slots, k)
        _store(self.values, self.value_scales, slots, v)

    def store_keys(self, slots: Tensor, k: Tensor) -> None:
        """For attention whose values are a part of its keys."""
        _store(self.keys, self.key_scales, slots, k)

    def read_keys(self, pages: Tensor, dtype: torch.dtype) -> Tensor:
        """pages (B, P) -> (B, P * page_size, G, D)"""
        return _read(self.keys, self.key_scales, pages, dtype)

    def read_values(self, pages: Tensor, dtype: torch.dtype) -> Tensor:
        return _read(self.values, self.value_scales, pages, dtype)


class Cache:
    """Pages, or states, of all layers: `cache[layer]` is what operations take."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers

    def __getitem__(self, layer: int) -> Any:
        return self.layers[layer]


def new_pages(
    shape: tuple[int, int, int, int], device: torch.device, dtype: Any, latent: bool = False
) -> LayerCache:
    """A layer of zeros: (pages, page_size, G, D), and the page for what nobody keeps. If `latent`,
    values are a part of the keys: of their own there are those of no heads."""
    pages, page_size, heads, dim = shape
    sizes = [(pages + 1, page_size, count) for count in (heads, 0 if latent else heads)]
    if dtype not in _LARGEST:
        return LayerCache(
            *(torch.zeros((*size, dim), dtype=dtype, device=device) for size in sizes)
        )
    # As bytes, whose zeros are the same: not every device fills floats of eight bits.
    codes = (torch.zeros((*size, dim), dtype=torch.uint8, device=device) for size in sizes)
    scales = (torch.zeros(size, dtype=torch.float32, device=device) for size in sizes)
    return LayerCache(*(part.view(dtype) for part in codes), *scales)


def _store(into: Tensor, scales: Tensor | None, slots: Tensor, x: Tensor) -> None:
    shape = (-1, *into.shape[2:])  # slot -1 is the last of the page for what nobody keeps
    if scales is None:
        into.view(shape)[slots] = x.to(into.dtype)
        return
    largest = _LARGEST[into.dtype]
    x = x.float()
    scale = x.abs().amax(dim=-1).clamp(min=1e-30) / largest  # (T, G)
    x = (x / scale[..., None]).clamp(-largest, largest)
    codes = (x.round() if into.dtype == torch.int8 else x).to(into.dtype)
    # As bytes: not every device can index floats of eight bits.
    into.view(torch.uint8).view(shape)[slots] = codes.view(torch.uint8)
    scales.view(-1, scales.shape[2])[slots] = scale


def _read(stored: Tensor, scales: Tensor | None, pages: Tensor, dtype: torch.dtype) -> Tensor:
    if scales is None:
        return stored[pages].flatten(1, 2).to(dtype)
    x = stored.view(torch.uint8)[pages].flatten(1, 2).view(stored.dtype)
    return (x.float() * scales[pages].flatten(1, 2)[..., None]).to(dtype)
