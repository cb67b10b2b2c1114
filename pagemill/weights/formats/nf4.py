"""NF4: blocks of 32 four-bit numbers under a scale s; an element is v[q] * s.

v is a table of sixteen values between which as much of a normal distribution lies (Dettmers et al.,
QLoRA, 2023). What bitsandbytes files mean, whatever the size of their blocks: one of ours repeats
what theirs has. A block is s (4 bytes, single precision), then 16 bytes: byte j holds element j in
its low and j + 16 in its high half.
"""

from typing import Final

import numpy as np

from pagemill.weights.formats.blocks import (
    Bytes,
    Float32,
    join_bits,
    single,
    split_bits,
    unpack_rows,
)

NAME: Final = "NF4"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 20
TABLE: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def unpack(raw: Bytes) -> Float32:
    """(rows, 20 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    np.take(np.array(TABLE, np.float32), split_bits(blocks[:, 4:], 4, 16), out=out, mode="clip")
    out *= single(blocks, 0)


def from_parts(quants: Bytes, scales: Float32) -> Bytes:
    """Numbers (rows, K) below 16 and, for each block of them, scales (rows, B)."""
    heads = scales.astype("<f4").reshape(-1, 1).view(np.uint8)
    blocks = np.concatenate([heads, join_bits(quants.reshape(-1, 32), 4, 16)], axis=1)
    return blocks.reshape(len(quants), -1)
