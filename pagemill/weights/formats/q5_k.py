"""Q5_K: blocks of 256 five-bit numbers in eight groups of 32, each with a scale and a minimum.

An element is q * (d * s) - (dmin * m), where s and m are its group's six-bit numbers. A block is d
(2 bytes), dmin (2 bytes), s and m (12 bytes, see six_bits.py), the fifth bits (32 bytes: bit g of
byte j is element j of group g), then 128 bytes: of each 32, the low halves are the low four bits of
one group and the high halves of the next.
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

NAME: Final = "Q5_K"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 176


def unpack(raw: Bytes) -> Float32:
    """(rows, 176 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    scales, minimums = six_bits.unpack(blocks[:, 4:16])
    groups = out.reshape(-1, 8, 32)
    quants = split_bits(blocks[:, 48:], 4, 32) | split_bits(blocks[:, 16:48], 1, 32) << 4
    np.multiply(quants.reshape(groups.shape), (half(blocks, 0) * scales)[:, :, None], out=groups)
    groups -= (half(blocks, 2) * minimums)[:, :, None]


def pack(values: Float32) -> Bytes:
    """(rows, 256 B) -> (rows, 176 B) bytes. How scales are found is said in search.py."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    packed = search.fit_with_minimums(blocks, 32, 31, 63)
    heads = half_bytes(packed.d), half_bytes(packed.dmin)
    scales = six_bits.pack(packed.scales.view(np.uint8), packed.minimums.view(np.uint8))
    quants = packed.quants.view(np.uint8)
    fifth, rest = join_bits(quants >> 4, 1, 32), join_bits(quants & 0x0F, 4, 32)
    return np.concatenate([*heads, scales, fifth, rest], axis=1)
