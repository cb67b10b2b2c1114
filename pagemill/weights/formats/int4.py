"""INT4: blocks of 32 four-bit numbers under a scale s and a zero point z: (q - z) * s.

What GPTQ, AWQ and compressed-tensors files mean, whatever the size of their groups: a block
repeats what its group has. A block is s (4 bytes, single precision), z (1 byte), then 16 bytes:
byte j holds element j in its low and j + 16 in its high half.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    half_bytes,
    join_bits,
    single,
    split_bits,
    unpack_rows,
)

NAME: Final = "INT4"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 21
NEAR: Final = "Q4_1"  # what as_gguf gives


def unpack(raw: Bytes) -> Float32:
    """(rows, 21 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    quants = split_bits(blocks[:, 5:], 4, 16).view(np.int8)
    np.multiply(quants - blocks[:, 4:5].astype(np.int16), single(blocks, 0), out=out)


def from_parts(quants: Bytes, scales: Float32, zeros: Bytes) -> Bytes:
    """Numbers (rows, K) below 16 and, for each block of them, scales and zero points (rows, B)."""
    heads = (scales.astype("<f4").reshape(-1, 1).view(np.uint8), zeros.reshape(-1, 1))
    blocks = np.concatenate([*heads, join_bits(quants.reshape(-1, 32), 4, 16)], axis=1)
    return blocks.reshape(len(quants), -1)


def as_gguf(raw: Bytes) -> tuple[str, Bytes]:
    """The nearest that GGUF has: Q4_1, with s and -z * s rounded to half precision."""
    blocks = np.ascontiguousarray(raw).reshape(-1, BLOCK_BYTES)
    scales = single(blocks, 0)
    least = -blocks[:, 4:5].astype(np.float32) * scales
    packed = np.concatenate([half_bytes(scales), half_bytes(least), blocks[:, 5:]], axis=1)
    return NEAR, packed.reshape(len(raw), -1)
