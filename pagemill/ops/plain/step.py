"""A step on its way to a device: one copy for all of its arrays.

What kernels need to know without asking the device (how long, how many) is worked out from the
numpy step before, and rides along. Must not know: what is computed with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pagemill.ops.interface import Int32, Step

# Numbers of 32 bits: every array begins at a multiple of 16 bytes. Triton compiles a kernel again
# for an address that is none.
_ALIGNED = 4
# Of a group, that are in memory at once: scores of one head, and tokens of gathered history.
_MOST_SCORES, _MOST_HISTORY = 1 << 22, 1 << 17
_ARRAYS = (
    "token_ids", "positions", "slots", "row_starts", "kv_lens", "page_table", "out_rows",
    "token_types", "state_slots",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that bring equally many tokens, and attend together: columns `start` to `stop` of them.

    `length` is the longest history among them.
    """

    rows: Tensor  # (B,) int32: which rows
    first: Tensor  # (B,) int32: the token that each begins with
    take: int
    start: int
    stop: int
    length: int
    fresh: bool  # nothing came before them: they see what they bring

    def tokens(self) -> Tensor:
        """(B, stop - start)"""
        columns = torch.arange(self.start, self.stop, dtype=torch.int32, device=self.first.device)
        return self.first[:, None] + columns

    def whole(self) -> Tensor:
        """(B, take): all tokens of these rows."""
        columns = torch.arange(self.take, dtype=torch.int32, device=self.first.device)
        return self.first[:, None] + columns


@dataclass(frozen=True, slots=True)
class DeviceStep(Step):
    """A `Step` whose arrays are int32 tensors on the device. The numbers are of the host."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    row_starts: Tensor
    kv_lens: Tensor
    page_table: Tensor
    out_rows: Tensor
    token_types: Tensor | None = None
    state_slots: Tensor | None = None
    max_kv_len: int = 0
    max_take: int = 0
    num_rows: int = 0
    groups: tuple[RowGroup, ...] = ()  # every row in one; of a row's columns each once


def to_device(step: Step, device: torch.device) -> DeviceStep:
    """The step's tensors there: one copy, from pinned memory where that helps."""
    takes = np.diff(step.row_starts)
    groups = list(_groups(step.kv_lens, takes))
    arrays = {name: getattr(step, name) for name in _ARRAYS}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    there = moved([*arrays.values(), *(group.rows for group in groups)], device)
    on_device: dict[str, Any] = dict(zip(arrays, there, strict=False))
    starts = on_device["row_starts"]
    kept = {field.name: getattr(step, field.name) for field in fields(Step)}
    return DeviceStep(
        **(kept | on_device),
        max_kv_len=int(step.kv_lens.max(initial=0)),
        max_take=int(takes.max(initial=0)),
        num_rows=len(step.kv_lens),
        groups=tuple(
            replace(group, rows=rows, first=starts[rows])
            for rows, group in zip(there[len(arrays) :], groups, strict=True)
        ),
    )


def decode_group(num_rows: int, length: int, device: torch.device) -> RowGroup:
    """All rows of a step in which each brings one token: for steps that are captured once, and run
    with whatever their tensors hold."""
    rows = torch.arange(num_rows, dtype=torch.int32, device=device)
    return RowGroup(rows, rows, 1, 0, 1, length, False)


def _groups(kv_lens: Int32, takes: Int32) -> Iterator[RowGroup]:
    """Rows that attend together: as many tokens each, and histories of one size, which are padded
    to the longest. In parts, where all at once would take too much memory. Still numpy arrays."""
    alike: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
    for row, (kv_len, take) in enumerate(zip(kv_lens.tolist(), takes.tolist(), strict=True)):
        alike[take, kv_len.bit_length(), kv_len == take].append(row)
    for (take, _, fresh), rows in alike.items():
        if not take:
            continue
        longest = max(1, int(kv_lens[rows].max()))
        columns = min(take, max(1, _MOST_SCORES // longest))
        together = max(1, min(_MOST_SCORES // (longest * columns), _MOST_HISTORY // longest))
        for at in range(0, len(rows), together):
            some = np.array(rows[at : at + together], np.int32)
            length = int(kv_lens[some].max())
            for start in range(0, take, columns):
                stop = min(take, start + columns)
                yield RowGroup(some, some, take, start, stop, length, fresh)


def moved(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Tensors there of these arrays, float32 or whole numbers of 32 bits, as parts of one: one
    copy."""
    sizes = [-(-array.size // _ALIGNED) * _ALIGNED for array in arrays]
    packed = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
    numbers = packed.numpy()
    at = 0
    for array, size in zip(arrays, sizes, strict=True):
        flat = array.reshape(-1)
        numbers[at : at + array.size] = flat.view(np.int32) if array.dtype == np.float32 else flat
        at += size
    parts = packed.to(device, non_blocking=True).split(sizes)
    return [_as(array, part) for array, part in zip(arrays, parts, strict=True)]


def _as(array: NDArray[Any], part: Tensor) -> Tensor:
    numbers = part[: array.size].view(array.shape)
    return numbers.view(torch.float32) if array.dtype == np.float32 else numbers
