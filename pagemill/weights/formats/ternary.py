"""Rounding to -1, 0, 1 under a scale, for the two formats that keep such numbers."""

import numpy as np

from pagemill.weights.formats.blocks import Bytes, Float32, inverse


def round_to_ternary(blocks: Float32) -> tuple[Float32, Bytes]:
    """The largest magnitude of each block (n, 1), and its elements as 0, 1, 2: one more than their
    nearest of -1, 0, 1 times it. Halves go away from zero."""
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    scaled = blocks * inverse(scale)
    digits = 1 + (scaled >= 0.5).view(np.int8) - (scaled <= -0.5).view(np.int8)
    return scale, digits.view(np.uint8)
