"""What the formats share: rows walked in slabs of blocks, and fields of a few bits.

A slab is small enough for a processor's cache and for the temporaries that numpy makes of it, so a
matrix of any size is unpacked or packed with little more memory than its result takes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Float32: TypeAlias = NDArray[np.float32]

_SLAB_ELEMENTS = 1 << 16
_LEAST = np.float32(1e-30)  # far below what half precision tells from 0; its inverse is finite


def unpack_rows(
    raw: Bytes, block_size: int, block_bytes: int, unpack: Callable[[Bytes, Float32], None]
) -> Float32:
    """(rows, bytes per row) -> (rows, K). `unpack` turns blocks (n, block_bytes) into the elements
    (n, block_size) of its second argument."""
    rows, row_bytes = raw.shape
    blocks = np.ascontiguousarray(raw).reshape(-1, block_bytes)
    out = np.empty((len(blocks), block_size), np.float32)
    step = max(1, _SLAB_ELEMENTS // block_size)
    for start in range(0, len(blocks), step):
        unpack(blocks[start : start + step], out[start : start + step])
    return out.reshape(rows, row_bytes // block_bytes * block_size)


def pack_rows(
    values: Float32, block_size: int, block_bytes: int, pack: Callable[[Float32], Bytes]
) -> Bytes:
    """(rows, K) -> (rows, bytes per row). `pack` turns elements (n, block_size) into blocks."""
    rows, row_len = values.shape
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, block_size)
    out = np.empty((len(blocks), block_bytes), np.uint8)
    step = max(1, _SLAB_ELEMENTS // block_size)
    for start in range(0, len(blocks), step):
        out[start : start + step] = pack(blocks[start : start + step])
    return out.reshape(rows, row_len // block_size * block_bytes)


def repack(
    raw: Bytes, unpack: Callable[[Bytes], Float32], pack: Callable[[Float32], Bytes]
) -> Bytes:
    """Rows of one format in another, a slab of rows at a time."""
    step = max(1, _SLAB_ELEMENTS * 16 // max(1, raw.shape[1]))
    return np.concatenate(
        [pack(unpack(raw[start : start + step])) for start in range(0, len(raw), step)]
    )


def half(blocks: Bytes, at: int) -> Float32:
    """The half-precision number at byte `at` of each block, (n, 1)."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def single(blocks: Bytes, at: int) -> Float32:
    """The single-precision number at byte `at` of each block, (n, 1)."""
    return blocks[:, at : at + 4].copy().view("<f4").astype(np.float32)


def half_bytes(values: Float32) -> Bytes:
    """(n, 1) -> (n, 2), rounded to half precision."""
    return values.astype("<f2").view(np.uint8)


def inverse(values: Float32) -> Float32:
    """1 / values, and 0 where a value is as good as 0."""
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=abs(values) > _LEAST)


def split_bits(raw: Bytes, bits: int, run: int) -> Bytes:
    """Fields of `bits` bits, (n, bytes) -> (n, bytes * 8 / bits). Of each `run` bytes come first
    all their lowest fields, then all the next ones, up to the highest."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = raw.reshape(len(raw), -1, 1, run) >> shifts
    fields &= np.uint8((1 << bits) - 1)
    return fields.reshape(len(raw), -1)


def join_bits(fields: NDArray[np.integer[Any]], bits: int, run: int) -> Bytes:
    """What `split_bits` undoes; the fields are uint8."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    parts = fields.reshape(len(fields), -1, 8 // bits, run) << shifts
    joined: Bytes = np.bitwise_or.reduce(parts, axis=2)
    return joined.reshape(len(fields), -1)
