"""The twelve bytes in which Q4_K and Q5_K keep eight scales and eight minimums of six bits each.

Bytes 0 to 3 hold scales 0 to 3, bytes 4 to 7 minimums 0 to 3, in their low six bits. Byte 8 + j has
the low four bits of scale 4 + j in its low and of minimum 4 + j in its high half; the upper two
bits of these two are the upper two of bytes j and 4 + j.
"""

import numpy as np

from pagemill.weights.formats.blocks import Bytes


def unpack(raw: Bytes) -> tuple[Bytes, Bytes]:
    """(n, 12) -> scales (n, 8) and minimums (n, 8)."""
    first, second, third = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scales = [first & 0x3F, third & 0x0F | first >> 6 << 4]
    minimums = [second & 0x3F, third >> 4 | second >> 6 << 4]
    return np.concatenate(scales, axis=1), np.concatenate(minimums, axis=1)


def pack(scales: Bytes, minimums: Bytes) -> Bytes:
    """What `unpack` undoes."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minimums[:, :4] | minimums[:, 4:] >> 4 << 6
    third = scales[:, 4:] & 0x0F | minimums[:, 4:] << 4
    return np.concatenate([first, second, third], axis=1)
