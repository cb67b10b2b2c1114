"""Q6_K: blocks of 256 six-bit numbers in sixteen groups of 16: an element is (q - 32) * (d * s).

s is its group's signed byte. A block is the low four bits (128 bytes: of each 64, the low halves
are 64 elements and the high halves the next 64), the upper two bits (64 bytes: of each 32, the
lowest bits are 32 elements, and so on), s (16 bytes), d (2 bytes).
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

NAME: Final = "Q6_K"
BLOCK_SIZE: Final = 256
BLOCK_BYTES: Final = 210


def unpack(raw: Bytes) -> Float32:
    """(rows, 210 B) bytes -> (rows, 256 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    quants = split_bits(blocks[:, :128], 4, 64) | split_bits(blocks[:, 128:192], 2, 32) << 4
    scales = half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    groups = out.reshape(-1, 16, 16)
    signed = quants.view(np.int8) - np.int8(32)
    np.multiply(signed.reshape(groups.shape), scales[:, :, None], out=groups)


def pack(values: Float32) -> Bytes:
    """(rows, 256 B) -> (rows, 210 B) bytes. How scales are found is said in search.py."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    packed = search.fit(blocks, 16, 32, 128)
    quants = (packed.quants + np.int8(32)).view(np.uint8)
    low, high = join_bits(quants & 0x0F, 4, 64), join_bits(quants >> 4, 2, 32)
    scales = packed.scales.view(np.uint8)
    return np.concatenate([low, high, scales, half_bytes(packed.d)], axis=1)
