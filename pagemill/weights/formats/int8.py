"""INT8: blocks of 32 eight-bit numbers under a scale s and a zero point z; an element is
(q - z) * s.

What GPTQ, LLM.int8 and compressed-tensors files mean, whatever the size of their groups: a block
repeats what its group has. A block is s (4 bytes, single precision), z (2 bytes), then q[0..31],
without signs.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagemill.weights.formats import q8_0
from pagemill.weights.formats.blocks import Bytes, Float32, repack, single, unpack_rows

NAME: Final = "INT8"
BLOCK_SIZE: Final = 32
BLOCK_BYTES: Final = 38
NEAR: Final = "Q8_0"  # what as_gguf gives
MIDDLE: Final = 128  # the zero point that makes signed bytes of the numbers


def unpack(raw: Bytes) -> Float32:
    """(rows, 38 B) bytes -> (rows, 32 B)."""
    return unpack_rows(raw, BLOCK_SIZE, BLOCK_BYTES, _unpack)


def _unpack(blocks: Bytes, out: Float32) -> None:
    np.multiply(blocks[:, 6:].astype(np.int16) - _zeros(blocks), single(blocks, 0), out=out)


def _zeros(blocks: Bytes) -> NDArray[np.int16]:
    return blocks[:, 4:6].copy().view("<u2").astype(np.int16)


def from_parts(quants: Bytes, scales: Float32, zeros: NDArray[np.uint16]) -> Bytes:
    """Numbers (rows, K) and, for each block of them, scales and zero points (rows, B)."""
    heads = (scales.astype("<f4"), zeros.astype("<u2"))
    parts = [head.reshape(-1, 1).view(np.uint8) for head in heads]
    blocks = np.concatenate([*parts, quants.reshape(-1, 32)], axis=1)
    return blocks.reshape(len(quants), -1)


def as_gguf(raw: Bytes) -> tuple[str, Bytes]:
    """The nearest that GGUF has: Q8_0. Where no zero point shifts them, the numbers stay, and s is
    rounded to half precision."""
    blocks = np.ascontiguousarray(raw).reshape(-1, BLOCK_BYTES)
    if not (_zeros(blocks) == MIDDLE).all():
        return NEAR, repack(raw, unpack, q8_0.pack)
    signed = blocks[:, 6:] ^ np.uint8(MIDDLE)  # as two's complement
    scales = single(blocks, 0).reshape(len(raw), -1)
    return NEAR, q8_0.from_parts(signed.reshape(len(raw), -1), scales)
