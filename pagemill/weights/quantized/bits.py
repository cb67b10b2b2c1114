"""Numbers of a few bits in 32-bit words, one after another from the lowest bit on."""

import numpy as np
from numpy.typing import NDArray


def unpack(words: NDArray[np.int32], bits: int, count: int) -> NDArray[np.uint8]:
    """(rows, words) -> the first `count` numbers of each row. A number may span two words."""
    rows = len(words)
    raw = np.ascontiguousarray(words).view("<u4")
    if 32 % bits == 0:
        out = np.empty((rows, raw.shape[1], 32 // bits), np.uint8)
        for place in range(32 // bits):
            out[:, :, place] = raw >> np.uint32(place * bits) & np.uint32((1 << bits) - 1)
        return out.reshape(rows, -1)[:, :count]
    out = np.empty((rows, count), np.uint8)
    for first in range(32):  # all numbers that begin at one bit of their run of words
        word, shift = divmod(first * bits, 32)
        lows = raw[:, word::bits] >> np.uint32(shift)
        if shift + bits > 32:
            highs = raw[:, word + 1 :: bits] << np.uint32(32 - shift)
            lows = lows[:, : highs.shape[1]] | highs
        of_first = out[:, first::32]
        of_first[:] = lows[:, : of_first.shape[1]] & np.uint32((1 << bits) - 1)
    return out


def words_of(count: int, bits: int) -> int:
    """Words that `count` numbers take."""
    return -(-count * bits // 32)
