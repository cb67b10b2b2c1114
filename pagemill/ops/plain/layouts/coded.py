"""Matrices of four-bit or eight-bit codes under the scales of groups, in the order that products
stream them.

The inputs of a matrix are cut into runs, each within one group. Codes lie step by step: of each
step all rows, of each row the words of the step. So a program that multiplies some rows reads one
stretch of memory a step. A step is one run of eight-bit codes, or four runs of four-bit ones, one
in each quarter of words of 16 bits: a shift and a mask give a whole tile of a product, two codes in
one instruction, and each where the product wants it. Scales lie group by group, those of all rows
together.

Must not know: what formats there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from pagemill.ops.plain.layouts.codings import Coding, Scales

_RUNS = MappingProxyType({4: (32, 16), 8: (64, 32, 16)})  # a row's step has 64 bytes, if it may
_QUARTERS = 4
_WIDER = (128, 64)  # groups that files of smaller blocks may mean
_FLOATS = (torch.float16, torch.bfloat16)
_SLAB_ELEMENTS = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A matrix (N, K); `codings` says what an element is."""

    codes: Tensor  # (steps, N, run) int16 of four codes, or int8 of one
    scales: Tensor  # (groups, N)
    k: int
    group: int
    dtype: torch.dtype  # of rows that are looked up
    zero: int = 0
    coarse: Tensor | None = None  # (K / coarse_run, N)
    coarse_run: int = 0
    shifts: Tensor | None = None  # (groups, N)
    coarse_shifts: Tensor | None = None
    minimums: bool = False  # what shifts are; else zero points
    values: Tensor | None = None  # (16,) float32

    @property
    def n(self) -> int:
        return int(self.codes.shape[1])

    @property
    def bits(self) -> int:
        return 8 if self.codes.dtype == torch.int8 else 4

    @property
    def run(self) -> int:
        return int(self.codes.shape[2])

    @property
    def nbytes(self) -> int:
        parts = (getattr(self, field.name) for field in fields(self))
        return sum(part.nbytes for part in parts if isinstance(part, Tensor))

    def product(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)"""
        step = max(1, _SLAB_ELEMENTS // self.k)
        slabs = (slice(start, start + step) for start in range(0, self.n, step))
        return torch.cat(
            [functional.linear(x, self._some(slab).unpack().to(x.dtype)) for slab in slabs], 1
        )

    def rows(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, K)"""
        return self._some(ids).unpack().to(self.dtype)

    def unpack(self) -> Tensor:
        """What the matrix means, (N, K) in float32."""
        numbers = self._numbers().unflatten(1, (-1, self.group))
        scales = _times(self.scales, self.coarse, self.group, self.coarse_run)
        shifts = _times(self.shifts, self.coarse_shifts, self.group, self.coarse_run)
        if shifts is None or not self.minimums:
            return ((numbers - (self.zero if shifts is None else shifts)) * scales).flatten(1)
        return (numbers * scales - shifts).flatten(1)

    def _numbers(self) -> Tensor:
        """What the codes stand for, (N, K)."""
        codes = self.codes
        if self.bits == 4:
            runs = [codes >> 4 * quarter & 15 for quarter in range(_QUARTERS)]
            codes = torch.stack(runs, 1).flatten(0, 1)
        codes = codes.movedim(0, 1).flatten(1)[:, : self.k]
        return codes.float() if self.values is None else self.values[codes.int()]

    def _some(self, rows: Tensor | slice) -> Coded:
        parts = {name: getattr(self, name) for name in _OF_GROUPS}
        some = {name: part[:, rows] for name, part in parts.items() if part is not None}
        return replace(self, codes=self.codes[:, rows], **some)


_OF_GROUPS = ("scales", "coarse", "shifts", "coarse_shifts")


def _times(numbers: Tensor | None, coarse: Tensor | None, group: int, run: int) -> Tensor | None:
    """Numbers (groups, N) in float32 times those of their longer runs, (N, groups, 1)."""
    if numbers is None:
        return None
    out = numbers.float()
    if coarse is not None:
        out = out * coarse.float().repeat_interleave(run // group, 0)
    return out.T[:, :, None]


@dataclass(frozen=True, slots=True)
class Found:
    """Scales of all rows of a matrix (N, groups), and of how many inputs each is."""

    scales: Scales
    group: int
    zero: int


def code(
    coding: Coding, parts: Sequence[Tensor], found: Found, k: int, dtype: torch.dtype
) -> Coded:
    """Stored rows of one format as a matrix: `parts` are blocks (rows, blocks, bytes), uint8."""
    of_groups = {
        name: None if part is None else _smallest(part).T.contiguous()
        for name, part in ((name, getattr(found.scales, name)) for name in _OF_GROUPS)
    }
    coarse, values = of_groups["coarse"], None
    if coding.values:
        values = torch.tensor(coding.values, dtype=torch.float32, device=parts[0].device)
    return Coded(
        codes=_in_steps(coding, parts, k, found.group),
        k=k,
        group=found.group,
        dtype=dtype,
        zero=found.zero,
        coarse_run=0 if coarse is None else k // len(coarse),
        minimums=coding.minimums,
        values=values,
        **of_groups,
    )


def read_scales(coding: Coding, parts: Sequence[Tensor], k: int) -> Found:
    """Scales of all rows, as few as mean the same: blocks of quantized folders repeat those of
    wider groups, and zero points may all be one."""
    read = [coding.scales(part) for part in parts]
    whole = {}
    for name in _OF_GROUPS:
        each = [getattr(scales, name) for scales in read]
        whole[name] = None if each[0] is None else torch.cat([part.flatten(1) for part in each])
    scales, group = _widest(Scales(**whole), coding.group, k)
    if scales.shifts is None or coding.minimums:
        return Found(scales, group, coding.zero)
    first = scales.shifts[:1, :1]
    if not torch.equal(scales.shifts, first.expand_as(scales.shifts)):
        return Found(scales, group, 0)
    return Found(replace(scales, shifts=None), group, int(first))


def _widest(scales: Scales, group: int, k: int) -> tuple[Scales, int]:
    """Scales of the widest groups within which all are equal, a whole row at most."""
    if scales.coarse is not None:
        return scales, group
    for wide in (k, *_WIDER):
        each = wide // group
        if each > 1 and wide % group == 0 and k % wide == 0:
            parts = [scales.scales] + ([] if scales.shifts is None else [scales.shifts])
            if all(_all_equal_in(part, each) for part in parts):
                shifts = None if scales.shifts is None else scales.shifts[:, ::each]
                return Scales(scales.scales[:, ::each], shifts=shifts), wide
    return scales, group


def _all_equal_in(numbers: Tensor, count: int) -> bool:
    runs = numbers.unflatten(1, (-1, count))
    return bool((runs == runs[..., :1]).all())


def _smallest(numbers: Tensor) -> Tensor:
    """Single-precision numbers in the first type of two bytes that holds them all."""
    if numbers.dtype == torch.float32:
        for dtype in _FLOATS:
            if torch.equal(numbers.to(dtype).float(), numbers):
                return numbers.to(dtype)
    return numbers


def _in_steps(coding: Coding, parts: Sequence[Tensor], k: int, group: int) -> Tensor:
    """Codes in the order that the head of this file tells, some rows at a time."""
    run = next(run for run in _RUNS[coding.bits] if group % run == 0)
    per_step = run if coding.bits == 8 else run * _QUARTERS
    steps, n = -(-k // per_step), sum(len(part) for part in parts)
    dtype = torch.int8 if coding.bits == 8 else torch.int16
    out = torch.empty((steps, n, run), dtype=dtype, device=parts[0].device)
    start = 0
    for part in parts:
        for blocks in part.split(max(1, _SLAB_ELEMENTS // k)):
            codes = coding.codes(blocks).flatten(1)
            codes = functional.pad(codes, (0, steps * per_step - k))
            words = codes.unflatten(1, (steps, run)) if coding.bits == 8 else _words(codes, run)
            out[:, start : start + len(blocks)] = words.movedim(1, 0)
            start += len(blocks)
    return out


def _words(codes: Tensor, run: int) -> Tensor:
    """(rows, K) numbers below 16 -> (rows, steps, run) words of four."""
    of_bytes = codes.unflatten(1, (-1, 2, 2, run))
    of_bytes = of_bytes[:, :, :, 0] | of_bytes[:, :, :, 1] << 4  # (rows, steps, 2, run)
    return of_bytes.movedim(2, 3).contiguous().view(torch.int16)[..., 0]
