"""MXFP4 (OCP Microscaling, 2023) as gpt-oss has it: matrices of experts as blocks of 32 four-bit
floats, two to a byte, the first in the low half, and a power of two for each block."""

from collections.abc import Iterator

import numpy as np

from pagemill.weights.formats import mxfp4
from pagemill.weights.keys import ConfigKeys
from pagemill.weights.quantized.tensors import Made, Tensors
from pagemill.weights.source import Rows

_HALF = mxfp4.BLOCK_SIZE // 2


def made(tensors: Tensors, config: ConfigKeys) -> Iterator[Made]:
    for name in tensors.names("_blocks"):
        if tensors.has(f"{name}_scales"):
            yield _experts(tensors, name)


def _experts(tensors: Tensors, name: str) -> Made:
    packed, powers = f"{name}_blocks", f"{name}_scales"
    experts, outputs, blocks, _ = tensors.check(packed, (None, None, None, _HALF), "U8")
    tensors.check(powers, (experts, outputs, blocks), "U8")

    def make(expert: int | None) -> Rows:
        some = slice(None) if expert is None else slice(expert, expert + 1)
        pairs = tensors.raw(packed, (experts, outputs, blocks, _HALF), "U8")[some]
        # Bytes hold neighbours; ours hold elements j and j + 16.
        first, second = pairs[..., : _HALF // 2], pairs[..., _HALF // 2 :]
        out = np.empty((*pairs.shape[:-1], mxfp4.BLOCK_BYTES), np.uint8)
        out[..., 0] = tensors.raw(powers, (experts, outputs, blocks), "U8")[some]
        out[..., 1::2] = first & 15 | second << 4
        out[..., 2::2] = first >> 4 | second & 240
        return mxfp4.NAME, out.reshape(-1, blocks * mxfp4.BLOCK_BYTES)

    shape = (experts, outputs, blocks * mxfp4.BLOCK_SIZE)
    return Made(packed, mxfp4.NAME, shape, (packed, powers), make)
