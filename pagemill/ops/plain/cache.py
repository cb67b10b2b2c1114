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


def new_pages(shape: tuple[int, int, int, int], device: torch.device, dtype: Any) -> LayerCache:
    """A layer of zeros: (pages, page_size, G, D), and the page for what nobody keeps."""
    shape = (shape[0] + 1, *shape[1:])
    keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
    if dtype not in _LARGEST:
        return LayerCache(keys, values)
    scales = (torch.zeros(shape[:3], dtype=torch.float32, device=device) for _ in range(2))
    return LayerCache(keys, values, *scales)


def _store(into: Tensor, scales: Tensor | None, slots: Tensor, x: Tensor) -> None:
    flat = into.view(-1, *into.shape[2:])  # slot -1 is the last of the page for what nobody keeps
    if scales is None:
        flat[slots] = x.to(into.dtype)
        return
    largest = _LARGEST[into.dtype]
    x = x.float()
    scale = x.abs().amax(dim=-1).clamp(min=1e-30) / largest  # (T, G)
    x = (x / scale[..., None]).clamp(-largest, largest)
    flat[slots] = (x.round() if into.dtype == torch.int8 else x).to(into.dtype)
    scales.view(-1, scales.shape[2])[slots] = scale


def _read(stored: Tensor, scales: Tensor | None, pages: Tensor, dtype: torch.dtype) -> Tensor:
    x = stored[pages].flatten(1, 2)
    if scales is None:
        return x.to(dtype)
    return (x.float() * scales[pages].flatten(1, 2)[..., None]).to(dtype)
