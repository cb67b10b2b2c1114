"""Q4_K: blocks of 256 four-bit numbers in eight groups of 32, each with a scale and a minimum.

An element is q * (d * s) - (dmin * m), where s and m are its group's six-bit numbers. A block is d
(2 bytes), dmin (2 bytes), s and m (12 bytes, see six_bits.py), then 128 bytes: of each 32, the low
halves are one group and the high halves the next.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats import search, six_bits
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

NAME: Final = "Q4_K"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 144


def unpack(raw: Bytes) -> Float32:
    """(rows, 144 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    scales, minimums = six_bits.unpack(blocks[:, 4:16])
    groups = out.reshape(-1, 8, 32)
    quants = split_bits(blocks[:, 16:], 4, 32).reshape(groups.shape)
    np.multiply(quants, (half(blocks, 0) * scales)[:, :, None], out=groups)
    groups -= (half(blocks, 2) * minimums)[:, :, None]


def pack(values: Float32) -> Bytes:
    """(rows, 256 B) -> (rows, 144 B) bytes. How scales are found is said in search.py."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    packed = search.fit_with_minimums(blocks, 32, 15, 63)
    heads = half_bytes(packed.d), half_bytes(packed.dmin)
    scales = six_bits.pack(packed.scales.view(np.uint8), packed.minimums.view(np.uint8))
    quants = packed.quants.view(np.uint8)
    return np.concatenate([*heads, scales, join_bits(quants, 4, 32)], axis=1)
