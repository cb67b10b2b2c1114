"""MXFP4: blocks of 32 four-bit floats under one power of two: an element is v[q] * 2^(e - 128).

v is the table FLOAT4, which holds twice what the four bits mean. A block is e (1 byte), then 16
bytes: byte j holds element j in its low and j + 16 in its high half.
"""

from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    join_bits,
    pack_rows,
    split_bits,
    unpack_rows,
)
from pagemill.weights.formats.levels import FLOAT4, look_up

NAME: Final = "MXFP4"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 17


def unpack(raw: Bytes) -> Float32:
    """(rows, 17 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    look_up(FLOAT4, split_bits(blocks[:, 1:], 4, 16), out)
    out *= np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)


def pack(values: Float32) -> Bytes:
    """(rows, 32 B) -> (rows, 17 B) bytes. Of two powers of two, one that may clip a block's largest
    magnitude and the next, the one with the smaller squared error."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    lower = np.clip(np.where(largest > 0, np.frexp(largest)[1] + 124, 0), 0, 253)
    (first, first_error), (second, second_error) = _round(blocks, lower), _round(blocks, lower + 1)
    better = 4 * second_error < first_error  # its steps are twice as long
    exponents = (lower + better).astype(np.uint8)
    numbers = np.where(better, second, first)
    return np.concatenate([exponents, join_bits(numbers, 4, 16)], axis=1)


def _round(blocks: Float32, exponents: NDArray[np.integer[Any]]) -> tuple[Bytes, Float32]:
    """The numbers nearest to the elements, and each block's squared error in steps, (n, 1)."""
    scaled = np.ldexp(blocks, 128 - exponents)
    magnitudes = np.abs(scaled)
    numbers = np.zeros(blocks.shape, np.uint8)
    for below, above in pairwise(FLOAT4[:8]):
        numbers += magnitudes > (below + above) / 2  # halves go to the smaller magnitude
    values = np.array(FLOAT4, np.float32)[numbers]
    error: Float32 = np.square(magnitudes - values).sum(axis=1, keepdims=True)
    numbers |= ((scaled < 0) & (numbers > 0)).view(np.uint8) << 3
    return numbers, error
