"""FP8: blocks of 32 eight-bit floats (E4M3) under a scale s; an element is v[byte] * s.

What fp8, fbgemm and compressed-tensors files mean, whatever parts of a matrix share a scale: a
block repeats it. A block is s (4 bytes, single precision), then 32 bytes. A byte is a sign, four
bits of exponent (bias 7) and three of mantissa; there are no infinities, and 127 and 255 are no
numbers.
"""

from functools import cache
from typing import Final

import numpy as np

from pagemill.weights.formats import q8_0
from pagemill.weights.formats.blocks import Bytes, Float32, repack, single, unpack_rows

NAME: Final = "FP8"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 36
NEAR: Final = "Q8_0"  # what as_gguf gives
LARGEST: Final = 448.0
_LEAST_EXPONENT = -6


@cache
def table() -> Float32:
    """What each byte means."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    leading = np.where(exponent > 0, 8, 0)  # a bit that is not stored
    significant = (mantissa + leading).astype(np.float32)
    values: Float32 = np.ldexp(significant, np.maximum(exponent, 1) - 10)
    values[byte & 127 == 127] = np.nan
    values[128:] *= -1
    values.setflags(write=False)
    return values


def unpack(raw: Bytes) -> Float32:
    """(rows, 36 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    np.take(table(), blocks[:, 4:], out=out, mode="clip")
    out *= single(blocks, 0)


def from_parts(quants: Bytes, scales: Float32) -> Bytes:
    """Bytes (rows, K) and, for each block of them, scales (rows, B)."""
    heads = scales.astype("<f4").reshape(-1, 1).view(np.uint8)
    blocks = np.concatenate([heads, quants.reshape(-1, 32)], axis=1)
    return blocks.reshape(len(quants), quants.shape[1] // BLOCK_SIZE * BLOCK_BYTES)


def pack(values: Float32) -> Bytes:
    """(rows, 32 B) -> (rows, 36 B) bytes. The largest magnitude of a row becomes 448: floats need
    no finer scales, and products of two eight-bit floats want one for each output."""
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(LARGEST)
    scaled = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    of_blocks = np.broadcast_to(scale, (len(values), values.shape[1] // BLOCK_SIZE))
    return from_parts(nearest(scaled), of_blocks)


def nearest(values: Float32) -> Bytes:
    """The byte whose meaning is nearest; of two, the even one. What is too large is the largest."""
    size = np.minimum(np.abs(values), np.float32(LARGEST))
    exponent = np.maximum(np.frexp(size)[1] - 1, _LEAST_EXPONENT)
    exponent[size == 0] = _LEAST_EXPONENT
    # In steps of the last bit of mantissa there are 8 to 16, below the least exponent fewer; 16 are
    # the first of the next exponent.
    steps = np.rint(np.ldexp(size, 3 - exponent)).astype(np.int32)
    byte = 8 * (exponent - _LEAST_EXPONENT) + steps + 128 * np.signbit(values)
    rounded: Bytes = byte.astype(np.uint8)
    return rounded


def as_gguf(raw: Bytes) -> tuple[str, Bytes]:
    """The nearest that GGUF has: Q8_0."""
    return NEAR, repack(raw, unpack, q8_0.pack)
