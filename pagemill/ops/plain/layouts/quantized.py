"""Stored rows of a quantized format as a matrix in the layout that suits them.

Must not know: what a matrix is for, nor how products are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pagemill.ops.plain.layouts import coded, float8, int8
from pagemill.ops.plain.layouts.codings import CODINGS
from pagemill.weights import formats
from pagemill.weights.formats import fp8

Quantized = coded.Coded | int8.Int8 | float8.Float8


def read(
    form: str, parts: Sequence[NDArray[np.uint8]], k: int, device: torch.device, dtype: torch.dtype
) -> Quantized | None:
    """Parts of one format, rows one after another, read on the device; None where these rows have
    no layout. `dtype` is of rows that are looked up."""
    blocks = [_blocks(form, part, k).to(device) for part in parts]
    if form == fp8.NAME:
        return float8.read(blocks, dtype)
    coding = CODINGS[form]
    found = coded.read_scales(coding, blocks, k)
    plain = found.scales.coarse is None and found.scales.shifts is None and not found.zero
    # A row of one block says nothing of what was meant.
    if coding.bits == 8 and plain and found.group == k > coding.group:
        return int8.read(coding, blocks, found.scales.scales, dtype)
    return coded.code(coding, blocks, found, k, dtype)


def _blocks(form: str, part: NDArray[np.uint8], k: int) -> Tensor:
    """A copy: what is stored is mapped from a file, and cannot be written."""
    known = formats.get(form)
    shape = (-1, k // known.BLOCK_SIZE, known.BLOCK_BYTES)
    return torch.from_numpy(part.reshape(shape).copy())
