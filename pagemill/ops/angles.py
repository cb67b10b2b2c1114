"""Tables of rotary positions, for backends that look them up."""

import numpy as np

from pagemill.ops.interface import Float32, Rope


def rotations(rope: Rope, positions: int) -> tuple[Float32, Float32]:
    """Cosines and sines (positions, rotary dims / 2) of positions 0, 1, ..., scaled. Angles are
    rounded to float32, as networks were trained with."""
    position = np.arange(positions)[:, None]
    angle = position.astype(np.float32) * np.array(rope.inv_freq, np.float32)
    scale = np.full(position.shape, rope.scale)
    if rope.period:
        scale *= 1 + rope.growth * np.log1p(position // rope.period)
    exact = angle.astype(np.float64)
    cos, sin = np.cos(exact) * scale, np.sin(exact) * scale
    return cos.astype(np.float32), sin.astype(np.float32)
