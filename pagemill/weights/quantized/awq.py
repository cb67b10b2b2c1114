"""AWQ (Lin et al., 2023), as AutoAWQ packs it ("gemm"): four bits, scales and zero points by group.

Of eight neighbouring outputs, a word has in its halves of bytes, lowest first, those at places 0,
2, 4, 6, 1, 3, 5, 7.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pagemill.weights.keys import ConfigKeys
from pagemill.weights.quantized import affine
from pagemill.weights.quantized.tensors import Made, Tensors
from pagemill.weights.source import Rows

_BITS, _PER_WORD = 4, 8
_SHIFTS = tuple(4 * place for place in (0, 4, 1, 5, 2, 6, 3, 7))  # of output 8 w + 0, 1, ...
_SYMMETRIC = 8


def made(tensors: Tensors, config: ConfigKeys) -> Iterator[Made]:
    bits = config.whole("bits" if config.has("bits") else "w_bit", 1, 16, _BITS)
    if bits != _BITS:
        raise config.unsupported("bits", f"is {bits}; AWQ of {_BITS} bits can be read")
    version = config.text("version", "gemm").lower()
    if version != "gemm":
        raise config.unsupported("version", f"is {version[:32]!r}; 'gemm' can be read")
    for module in tensors.names(".qweight"):
        yield _matrix(tensors, module)


def _matrix(tensors: Tensors, module: str) -> Made:
    names = [f"{module}.{part}" for part in ("qweight", "scales", "qzeros")]
    packed, scales, zeros = names
    inputs, words = tensors.check(packed, (None, None), "I32")
    outputs = words * _PER_WORD
    groups = tensors.check(scales, (None, outputs), "F16", "BF16", "F32")[0]
    if inputs % groups:
        raise tensors.bad(scales, f"has {groups} groups, which do not divide {inputs} inputs")
    if tensors.has(zeros):
        tensors.check(zeros, (groups, words), "I32")
    else:
        del names[2]

    def make(expert: int | None) -> Rows:
        quants = _unpack(tensors.wholes(packed, (inputs, words)))
        of_groups = np.full((outputs, groups), _SYMMETRIC, np.uint16)
        if tensors.has(zeros):
            of_groups = _unpack(tensors.wholes(zeros, (groups, words))).astype(np.uint16)
        real = np.ascontiguousarray(tensors.reals(scales, (groups, outputs)).T)
        return affine.rows(affine.Affine(quants, real, of_groups, _BITS))

    form = affine.nominal(_BITS, inputs, inputs // groups)
    grouping = tensors.grouping(scales, inputs // groups, tensors.has(zeros))
    return Made(f"{module}.weight", form, (outputs, inputs), names, make, grouping)


def _unpack(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(rows, words) -> (8 words, rows)."""
    raw = np.ascontiguousarray(words.T).view("<u4")
    out = np.empty((len(raw), _PER_WORD, raw.shape[1]), np.uint8)
    for place, shift in enumerate(_SHIFTS):
        out[:, place] = raw >> np.uint32(shift) & np.uint32(15)
    return out.reshape(-1, raw.shape[1])
