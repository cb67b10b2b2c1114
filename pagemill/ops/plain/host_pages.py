"""Pages of a device copied to the host's memory and back. See `engine.offload`.

A place on the host has a page's bytes of all layers one after another, so a page is one transfer.
Transfers are asked for like any other work of the device, so they come after the step before and
before the step after. Must not know: which pages, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from pagemill.ops.plain.pinned import pinned


class TensorPages:
    """Pages of a cache of `LayerCache`s, and as many places as `nbytes` hold."""

    def __init__(self, kv: Any, nbytes: int) -> None:
        self._tensors = list(_tensors(kv))  # each (pages, ...)
        self._sizes = [tensor[0].nbytes for tensor in self._tensors]
        self._device = self._tensors[0].device
        of_page = sum(self._sizes)
        self.num_places = nbytes // of_page
        self._places = pinned(self.num_places * of_page, self._device).view(-1, of_page)

    def copy_out(self, pages: list[int], places: list[int]) -> None:
        with torch.inference_mode():
            for page, place in zip(pages, places, strict=True):
                parts = [tensor[page].view(torch.uint8).flatten() for tensor in self._tensors]
                self._places[place].copy_(torch.cat(parts), non_blocking=True)

    def copy_in(self, pages: list[int], places: list[int]) -> None:
        with torch.inference_mode():
            for page, place in zip(pages, places, strict=True):
                there = self._places[place].to(self._device, non_blocking=True)
                for tensor, part in zip(self._tensors, there.split(self._sizes), strict=True):
                    tensor[page].view(torch.uint8).view(-1).copy_(part)


def _tensors(kv: Any) -> Iterator[Tensor]:
    for layer in kv.layers:
        assert is_dataclass(layer)
        values = (getattr(layer, field.name) for field in fields(layer))
        yield from (value for value in values if value is not None)
