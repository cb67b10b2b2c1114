"""Q2_K: blocks of 256 two-bit numbers in sixteen groups of 16, each with a scale and a minimum.

An element is q * (d * s) - (dmin * m), where s and m are its group's four-bit numbers. A block is
s and m (16 bytes, s in the low halves), q (64 bytes: of each 32, the lowest two bits are 32
elements, the next two the next 32, and so on), d (2 bytes), dmin (2 bytes).
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import search
from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    half,
    half_bytes,
    join_bits,
    pack_rows,
    split_bits,
    unpack_rows,
)

NAME: Final = "Q2_K"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 84


def unpack(raw: Bytes) -> Float32:
    """(rows, 84 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    scales, minimums = blocks[:, :16] & 0x0F, blocks[:, :16] >> 4
    groups = out.reshape(-1, 16, 16)
    quants = split_bits(blocks[:, 16:80], 2, 32).reshape(groups.shape)
    np.multiply(quants, (half(blocks, 80) * scales)[:, :, None], out=groups)
    groups -= (half(blocks, 82) * minimums)[:, :, None]


def pack(values: Float32) -> Bytes:
    """(rows, 256 B) -> (rows, 84 B) bytes. How scales are found is said in search.py."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    packed = search.fit_with_minimums(blocks, 16, 3, 15)
    scales = (packed.scales | packed.minimums << 4).view(np.uint8)
    quants = join_bits(packed.quants.view(np.uint8), 2, 32)
    heads = half_bytes(packed.d), half_bytes(packed.dmin)
    return np.concatenate([scales, quants, *heads], axis=1)
