"""bitsandbytes: NF4 (Dettmers et al., 2023) and FP4 with scales plain or quantized once more, and
LLM.int8 (Dettmers et al., 2022), whose rows of signed bytes have a scale each."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from pagemill.ops.interface import Float32, Grouping
from pagemill.small_files import parse_json
from pagemill.weights.formats import f32, fp4, nf4, tables
from pagemill.weights.keys import ConfigKeys
from pagemill.weights.quantized import affine
from pagemill.weights.quantized.tensors import Made, Tensors
from pagemill.weights.source import Rows

_STATE = ".quant_state.bitsandbytes__"
_MOST_STATE_BYTES = 1 << 16
_MOST_BLOCK = 1 << 16
_MOST_SIZE = 1 << 31
_LARGEST_BYTE = 127
_MIDDLE = 128
_SINGLE = 4  # bytes of a scale
_CLOSE = 1e-6


class _FourBits(Protocol):
    """A format of four-bit numbers that stand for the values of a table."""

    @property
    def NAME(self) -> str: ...

    @property
    def TABLE(self) -> tuple[float, ...]: ...


_FOUR_BITS: tuple[_FourBits, ...] = (nf4, fp4)


def made(tensors: Tensors, config: ConfigKeys) -> Iterator[Made]:
    for kind in _FOUR_BITS:
        for name in tensors.names(f"{_STATE}{kind.NAME.lower()}"):
            yield _four_bits(tensors, name, kind)
    for module in tensors.names(".SCB"):
        yield _int8(tensors, module)


def _int8(tensors: Tensors, module: str) -> Made:
    name, scale = f"{module}.weight", f"{module}.SCB"
    outputs, inputs = tensors.check(name, (None, None), "I8")
    tensors.check(scale, (outputs,), "F32", "F16", "BF16")

    def make(expert: int | None) -> Rows:
        raw = tensors.raw(name, (outputs, inputs), "I8")
        scales = tensors.reals(scale, (outputs,))[:, None] / np.float32(_LARGEST_BYTE)
        zeros = np.full((outputs, 1), _MIDDLE, np.uint16)
        return affine.rows(affine.Affine(raw ^ np.uint8(_MIDDLE), scales, zeros, 8))

    form = affine.nominal(8, inputs, inputs)
    grouping = Grouping(inputs, _SINGLE)
    return Made(name, form, (outputs, inputs), (name, scale), make, grouping)


def _four_bits(tensors: Tensors, name: str, kind: _FourBits) -> Made:
    """All elements in one row, two to a byte, the first in the high half."""
    state_name = f"{name}{_STATE}{kind.NAME.lower()}"
    state = _state(tensors, state_name)
    outputs, inputs = state.wholes("shape", 2, 1, _MOST_SIZE)
    block = state.whole("blocksize", 1, _MOST_BLOCK)
    elements = outputs * inputs
    tensors.check(name, (-(-elements // 2), 1), "U8")
    names = [name, state_name, *(f"{name}.{part}" for part in ("absmax", "quant_map"))]
    nested = [f"{name}.nested_{part}" for part in ("absmax", "quant_map")]
    if state.has("nested_offset"):
        names += nested
    whole = inputs % tables.SIZE == 0 and block % tables.SIZE == 0  # blocks, as ours
    table = tensors.reals(f"{name}.quant_map", (16,))
    if not np.allclose(table, kind.TABLE, rtol=0, atol=_CLOSE):
        raise tensors.unsupported(f"{name}.quant_map", f"is another table than {kind.NAME}'s")

    def make(expert: int | None) -> Rows:
        raw = tensors.raw(name, (-(-elements // 2), 1), "U8").reshape(-1)
        scales = _scales(tensors, name, state, -(-elements // block))
        quants = np.stack([raw >> 4, raw & 15], axis=1).reshape(-1)[:elements]
        quants = quants.reshape(outputs, inputs)
        if not whole:
            of_elements = scales[np.arange(elements) // block].reshape(quants.shape)
            return f32.NAME, f32.pack(np.array(kind.TABLE, np.float32)[quants] * of_elements)
        of_blocks = scales[np.arange(0, elements, tables.SIZE) // block]
        return kind.NAME, tables.from_parts(quants, of_blocks.reshape(outputs, -1))

    grouping = Grouping(block, _SINGLE) if inputs % block == 0 else None
    form = kind.NAME if whole else f32.NAME
    return Made(name, form, (outputs, inputs), names, make, grouping)


def _state(tensors: Tensors, name: str) -> ConfigKeys:
    """The JSON in a tensor of bytes."""
    size = tensors.check(name, (None,), "U8")[0]
    if size > _MOST_STATE_BYTES:
        raise tensors.bad(name, f"has {size} bytes, the limit is {_MOST_STATE_BYTES}")
    try:
        text = tensors.raw(name, (size,), "U8").tobytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise tensors.bad(name, f"is not UTF-8 at its byte {error.start}") from None
    place = f"{tensors.name}: tensor {name[:80]!r}"
    return ConfigKeys(parse_json(text, place), place, {})


def _scales(tensors: Tensors, name: str, state: ConfigKeys, count: int) -> Float32:
    """The scale of each block of the file's."""
    if not state.has("nested_offset"):
        return tensors.reals(f"{name}.absmax", (count,))
    codes = tensors.raw(f"{name}.absmax", (count,), "U8")
    block = state.whole("nested_blocksize", 1, _MOST_BLOCK)
    outer = tensors.reals(f"{name}.nested_absmax", (-(-count // block),))
    table = tensors.reals(f"{name}.nested_quant_map", (256,))
    offset = state.signed("nested_offset", 1e6)
    return table[codes] * outer[np.arange(count) // block] + np.float32(offset)
