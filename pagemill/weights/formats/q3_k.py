"""Q3_K: blocks of 256 three-bit numbers in sixteen groups of 16: an element is (q - 4) * (d * s).

s is its group's six-bit number less 32. A block is the third bits of q (32 bytes: bit i of byte j
is element 32 i + j's), the low two bits (64 bytes: of each 32, the lowest two bits are 32 elements,
the next two the next 32, and so on), the groups' numbers (12 bytes: the low four bits of the first
eight are the low halves of bytes 0 to 7, those of the last eight the high halves; the upper two of
number 4 i + j are the i-th two of byte 8 + j), d (2 bytes).
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

NAME: Final = "Q3_K"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 110


def unpack(raw: Bytes) -> Float32:
    """(rows, 110 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    six_bits = split_bits(blocks[:, 96:104], 4, 8) | split_bits(blocks[:, 104:108], 2, 4) << 4
    scales = half(blocks, 108) * (six_bits.view(np.int8) - np.int8(32))
    quants = split_bits(blocks[:, 32:96], 2, 32) | split_bits(blocks[:, :32], 1, 32) << 2
    groups = out.reshape(-1, 16, 16)
    signed = quants.view(np.int8) - np.int8(4)
    np.multiply(signed.reshape(groups.shape), scales[:, :, None], out=groups)


def pack(values: Float32) -> Bytes:
    """(rows, 256 B) -> (rows, 110 B) bytes. How scales are found is said in search.py."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    packed = search.fit(blocks, 16, 4, 32)
    scales = (packed.scales + np.int8(32)).view(np.uint8)
    quants = (packed.quants + np.int8(4)).view(np.uint8)
    return np.concatenate(
        [
            join_bits(quants >> 2, 1, 32),
            join_bits(quants & 3, 2, 32),
            join_bits(scales & 0x0F, 4, 8),
            join_bits(scales >> 4, 2, 4),
            half_bytes(packed.d),
        ],
        axis=1,
    )
