"""Weights that nobody trained, in the bytes that files have: speed does not depend on them.

Of quantized formats a few rows are made and repeated. Must not know: networks, devices.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pagemill.ops.interface import Weight
from pagemill.weights import formats
from pagemill.weights.formats import int4

_MADE = 16  # rows
_GROUP = 128  # of four-bit codes: that of most AWQ and GPTQ folders
_LARGEST = 4.0
_KEPT_BITS, _SET_BITS = 0x80FF, 0x3C00  # of BF16: 2^-7 to 2^-5, of either sign


def weight(form: str, rows: int, k: int) -> Weight:
    """A matrix (rows, k)."""
    return Weight((rows, k), (form,), (stored(form, rows, k).reshape(-1),), (rows,))


def stored(form: str, rows: int, k: int) -> NDArray[np.uint8]:
    """(rows, bytes of a row)"""
    if form == "BF16":
        bits = np.random.default_rng(rows).integers(0, 1 << 16, (rows, k), np.uint16)
        return (bits & _KEPT_BITS | _SET_BITS).view(np.uint8)
    made = _packed(form, k)
    return np.tile(made, (-(-rows // len(made)), 1))[:rows]


@cache
def _packed(form: str, k: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    if form == int4.NAME:
        return _int4(rng, k)
    values = rng.standard_normal((_MADE, k)).clip(-_LARGEST, _LARGEST).astype(np.float32)
    if form in ("Q8_0", "FP8"):
        values[:, :: formats.get(form).BLOCK_SIZE] = _LARGEST  # so a row has one scale
    return formats.get_packing(form).pack(values / np.float32(math.sqrt(k)))


def _int4(rng: np.random.Generator, k: int) -> NDArray[np.uint8]:
    codes = rng.integers(0, 16, (_MADE, k), dtype=np.uint8)
    groups = (_MADE, -(-k // _GROUP))
    each = _GROUP // int4.BLOCK_SIZE
    blocks = k // int4.BLOCK_SIZE
    scales = rng.uniform(0.5, 1.5, groups).astype(np.float32) / np.float32(8 * math.sqrt(k))
    scales = scales.astype(np.float16).astype(np.float32)
    zeros = rng.integers(7, 10, groups, dtype=np.uint8)
    scales, zeros = (np.repeat(x, each, 1)[:, :blocks] for x in (scales, zeros))
    return int4.from_parts(codes, scales, zeros)
