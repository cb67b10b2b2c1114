"""Blocks of 32 four-bit numbers that stand for the values of a table, under a scale s.

What bitsandbytes files mean, whatever the size of their blocks: one of ours repeats what theirs
has. A block is s (4 bytes, single precision), then 16 bytes: byte j holds element j in its low and
j + 16 in its high half.
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

SIZE: Final = 32
BYTES: Final = 20


def unpack_values(raw: Bytes, table: tuple[float, ...]) -> Float32:
    """(rows, 20 B) bytes -> (rows, 32 B)."""
    values = np.array(table, np.float32)

    def blocks_to(blocks: Bytes, out: Float32) -> None:
        np.take(values, split_bits(blocks[:, 4:], 4, 16), out=out, mode="clip")
        out *= single(blocks, 0)

    return unpack_rows(raw, SIZE, BYTES, blocks_to)


def from_parts(quants: Bytes, scales: Float32) -> Bytes:
    """Numbers (rows, K) below 16 and, for each block of them, scales (rows, B)."""
    heads = scales.astype("<f4").reshape(-1, 1).view(np.uint8)
    blocks = np.concatenate([heads, join_bits(quants.reshape(-1, SIZE), 4, 16)], axis=1)
    return blocks.reshape(len(quants), -1)
