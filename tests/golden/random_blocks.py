"""Random blocks of quantized formats, the same on every machine and with every numpy."""

import random

import numpy as np
from numpy.typing import NDArray

# Random bits also make infinities. Of these bytes, what the first mask has is kept and the second
# is set, so that exponents are moderate: half-precision ones are 9 to 15 of 31.
_HALF = (0x83, 0x24)
MASKS = {
    "Q5_0": {1: _HALF},
    "Q5_1": {1: _HALF, 3: _HALF},
    "Q2_K": {81: _HALF, 83: _HALF},
    "Q3_K": {109: _HALF},
    "Q4_K": {1: _HALF, 3: _HALF},
    "Q5_K": {1: _HALF, 3: _HALF},
    "Q6_K": {209: _HALF},
    "IQ4_NL": {1: _HALF},
    "IQ4_XS": {1: _HALF},
    "MXFP4": {0: (0x1F, 0x60)},
    "NVFP4": {},
    "TQ1_0": {53: _HALF},
    "TQ2_0": {65: _HALF},
    "IQ3_S": {1: _HALF},
    "IQ3_XXS": {1: _HALF},
    "IQ2_S": {1: _HALF},
    "IQ2_XS": {1: _HALF},
    "IQ2_XXS": {1: _HALF},
    "IQ1_S": {1: _HALF},
    "IQ1_M": {55: (0x8F, 0x30)},
}
# The same of formats that no golden blocks are made of. Single-precision scales are 2^-7 to 2^-6.
_SINGLE = {2: (0x7F, 0), 3: (0, 0x3C)}
OTHER_MASKS = {
    "Q1_0": {1: _HALF},
    "Q2_0": {1: _HALF},
    "NF4": _SINGLE,
    "FP4": _SINGLE,
    "INT8": _SINGLE,
}


def random_blocks(name: str, count: int, block_bytes: int) -> NDArray[np.uint8]:
    """(count, block_bytes)"""
    raw = random.Random(name).randbytes(count * block_bytes)
    blocks = np.frombuffer(raw, np.uint8).reshape(count, block_bytes).copy()
    for at, (kept, set_) in MASKS[name].items():
        blocks[:, at] = blocks[:, at] & kept | set_
    return blocks
