"""Random blocks of every quantized format, the same on every machine and with every numpy."""

import random

import numpy as np
from numpy.typing import NDArray

# Where a format keeps half-precision numbers. Their exponents are set to moderate ones: random bits
# also make infinities.
HALVES = {
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}


def random_blocks(name: str, count: int, block_bytes: int) -> NDArray[np.uint8]:
    """(count, block_bytes)"""
    raw = random.Random(name).randbytes(count * block_bytes)
    blocks = np.frombuffer(raw, np.uint8).reshape(count, block_bytes).copy()
    for at in HALVES[name]:
        blocks[:, at + 1] = blocks[:, at + 1] & 0x83 | 0x24  # exponents 9 to 15 of 31
    return blocks
