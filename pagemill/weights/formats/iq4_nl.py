"""IQ4_NL: blocks of 32 four-bit numbers under one half-precision scale d; an element is v[q] * d.

v is the table NON_LINEAR. A block is d (2 bytes), then 16 bytes: byte j holds element j in its low
and j + 16 in its high half.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    half,
    half_bytes,
    inverse,
    join_bits,
    pack_rows,
    split_bits,
    unpack_rows,
)
from pagemill.weights.formats.levels import NON_LINEAR, look_up, nearest_non_linear

NAME: Final = "IQ4_NL"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 18

# What the element farthest from zero may become, before its nearest level is taken.
_ENDS: Final = (*range(-135, -115, 2), *range(105, 121, 4))


def unpack(raw: Bytes) -> Float32:
    """(rows, 18 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    look_up(NON_LINEAR, split_bits(blocks[:, 2:], 4, 16), out)
    out *= half(blocks, 0)


def pack(values: Float32) -> Bytes:
    """(rows, 32 B) -> (rows, 18 B) bytes. Of several scales that bring the largest magnitude of a
    block near to an end of the table, the one with the least squared error."""
    return pack_rows(values, BLOCK_SIZE, BLOCK_BYTES, _pack)


def _pack(blocks: Float32) -> Bytes:
    at = np.abs(blocks).argmax(axis=1, keepdims=True)
    extreme = np.take_along_axis(blocks, at, axis=1)
    to_one = inverse(extreme)
    levels = np.array(NON_LINEAR, np.float32)
    weights = np.abs(blocks) + np.sqrt(np.mean(blocks * blocks, axis=1, keepdims=True))
    weighted = weights * blocks
    scale, best = np.zeros_like(extreme), np.zeros_like(extreme)
    for end in _ENDS:
        scaled = blocks * np.multiply(to_one, end, dtype=np.float32)
        found = levels[nearest_non_linear(scaled)]
        vx = np.einsum("ij,ij->i", weighted, found)[:, None]
        vv = np.einsum("ij,ij,ij->i", weights, found, found)[:, None]
        this = vx * inverse(vv)
        gain = this * vx  # how much the squared error is below that of all zeros
        scale, best = np.where(gain > best, this, scale), np.maximum(gain, best)
    d = scale.astype("<f2").astype(np.float32)
    numbers = nearest_non_linear(blocks * inverse(d))
    return np.concatenate([half_bytes(d), join_bits(numbers, 4, 16)], axis=1)
