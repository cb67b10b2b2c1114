"""Matrices of eight-bit floats (E4M3) under single-precision scales, one for each output and 128
inputs of it, or for all of them.

Scales of tiles (128x128) are repeated for each of their rows, and the scale of a matrix for all: a
product reads as many as there are outputs in its own tile either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pagemill.ops.plain.layouts.fields import single

BLOCK = 128
LARGEST = 448.0
_HEAD, _STORED = 4, 32  # bytes of a scale, inputs that have one in the format FP8


@dataclass(frozen=True, slots=True, eq=False)
class Float8:
    """A matrix (N, K). `scales` (blocks, N): of 128 inputs each, or of all."""

    codes: Tensor  # (N, K) float8_e4m3fn
    scales: Tensor
    dtype: torch.dtype  # of rows that are looked up

    @property
    def n(self) -> int:
        return int(self.codes.shape[0])

    @property
    def k(self) -> int:
        return int(self.codes.shape[1])

    @property
    def block(self) -> int:
        """Inputs that share a scale."""
        return self.k if len(self.scales) == 1 else BLOCK

    @property
    def nbytes(self) -> int:
        return int(self.codes.nbytes + self.scales.nbytes)

    def product(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N), of activations as they are."""
        return functional.linear(x, self.unpack().to(x.dtype))

    def rows(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, K)"""
        # Bytes are picked as bytes: not every device can index floats of eight bits.
        codes = self.codes.view(torch.uint8)[ids].view(self.codes.dtype)
        return Float8(codes, self.scales[:, ids], self.dtype).unpack().to(self.dtype)

    def unpack(self) -> Tensor:
        """What the matrix means, (N, K) in float32."""
        scales = self.scales.T.repeat_interleave(self.block, 1)[:, : self.k]
        return self.codes.float() * scales


def round_blocks(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(T, K) -> eight-bit floats (T, K) and scales (T, blocks): the largest magnitude of each
    `block` elements of a row becomes 448."""
    k = x.shape[1]
    blocks = functional.pad(x.float(), (0, -k % block)).unflatten(1, (-1, block))
    largest = blocks.abs().amax(2)
    inverse = torch.where(largest > 0, torch.full_like(largest, LARGEST) / largest, 0.0)
    scaled = (blocks * inverse[:, :, None]).clamp(-LARGEST, LARGEST)
    return scaled.flatten(1)[:, :k].to(torch.float8_e4m3fn), largest * (1 / LARGEST)


def read(parts: Sequence[Tensor], dtype: torch.dtype) -> Float8 | None:
    """Blocks (rows, blocks, bytes) of the format FP8 as a matrix; None where less than 128 inputs
    share a scale."""
    scales = torch.cat([single(part, 0).flatten(1) for part in parts])
    found = _of_blocks(scales)
    if found is None:
        return None
    codes = torch.cat([part[:, :, _HEAD:].flatten(1) for part in parts])
    return Float8(codes.view(torch.float8_e4m3fn), found.T.contiguous(), dtype)


def _of_blocks(scales: Tensor) -> Tensor | None:
    """Scales of stored blocks (N, blocks) as those of rows (N, 1), or of blocks of 128."""
    if torch.equal(scales, scales[:, :1].expand_as(scales)):
        return scales[:, :1]
    each = BLOCK // _STORED
    wide = scales[:, ::each]
    same = wide.repeat_interleave(each, 1)[:, : scales.shape[1]]
    return wide if torch.equal(scales, same) else None
