"""compressed-tensors: whole numbers packed into words or bytes, or eight-bit floats, as each module
has them.

A module's tensors say what it is, so groups of modules may differ and some may be left as they
were. Scales of activations are passed over: activations are not rounded here.
"""

from collections.abc import Iterator

import numpy as np

from pagemill.weights.keys import ConfigKeys
from pagemill.weights.quantized import affine, bits, fp8, gptq
from pagemill.weights.quantized.tensors import Made, Tensors
from pagemill.weights.source import Rows

_FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision",
    "dense",
)  # fmt: skip
_MIDDLE = 128  # makes signed bytes of numbers without a sign
_MOST_TILE = 1 << 24


def made(tensors: Tensors, config: ConfigKeys) -> Iterator[Made]:
    tile = _check(config)
    for module in tensors.names(".weight_packed"):
        yield _packed(tensors, module)
    for module in tensors.names(".weight_scale"):
        name = f"{module}.weight"
        if tensors.has(name) and tensors.dtype(name) == "I8":
            yield _bytes(tensors, module)
        elif tensors.has(name):
            yield fp8.matrix(tensors, module, tile)


def _check(config: ConfigKeys) -> tuple[int, int]:
    """Refuse what would change the result; the tile of matrices that have a scale for each."""
    if config.has("transform_config") and config.part("transform_config").names():
        raise config.unsupported("transform_config", "transforms of activations cannot be run")
    if config.has("sparsity_config"):
        sparse = config.part("sparsity_config")
        if sparse.text("format", "dense") != "dense":
            raise sparse.unsupported("format", "only 'dense' matrices can be read")
    tile = (0, 0)
    groups = config.part("config_groups") if config.has("config_groups") else None
    for part in [config] + [groups.part(name) for name in groups.names()] if groups else [config]:
        kind = part.text("format", "dense")
        if kind not in _FORMATS:
            raise part.unsupported("format", f"is {kind[:48]!r}; there are {', '.join(_FORMATS)}")
        weights = part.part("weights") if part.has("weights") else None
        if weights is not None and weights.has("block_structure"):
            rows, columns = weights.wholes("block_structure", 2, 1, _MOST_TILE)
            tile = (rows, columns)
    return tile


def _packed(tensors: Tensors, module: str) -> Made:
    """Numbers of 2 to 8 bits in words, one row after another."""
    names = [f"{module}.weight_{part}" for part in ("packed", "scale", "shape")]
    packed, scale, size = names
    zero, order = f"{module}.weight_zero_point", f"{module}.weight_g_idx"
    names += [name for name in (zero, order) if tensors.has(name)]
    kind = "I64" if tensors.has(size) and tensors.dtype(size) == "I64" else "I32"
    outputs, inputs = (int(number) for number in tensors.wholes(size, (2,), kind))
    words = tensors.check(packed, (outputs, None), "I32")[1]
    width = words * 32 // inputs if inputs > 0 else 0
    if not 2 <= width <= 8 or words != bits.words_of(inputs, width):
        raise tensors.bad(size, f"is {(outputs, inputs)}, for which {words} words do not fit")
    groups = tensors.check(scale, (outputs, None), "F16", "BF16", "F32")[1]
    if inputs % groups:
        raise tensors.bad(scale, f"has {groups} groups, which do not divide {inputs} inputs")

    of_inputs = gptq.order_of(tensors, order, inputs, groups)

    def matrix() -> affine.Affine:
        zeros = np.full((outputs, groups), 1 << (width - 1), np.uint16)
        if tensors.has(zero):
            column = tensors.wholes(zero, (bits.words_of(outputs, width), groups))
            zeros = bits.unpack(column.T, width, outputs).T.astype(np.uint16)
        return affine.Affine(
            quants=bits.unpack(tensors.wholes(packed, (outputs, words)), width, inputs),
            scales=tensors.reals(scale, (outputs, groups)),
            zeros=zeros,
            bits=width,
            groups=of_inputs,
        )

    grouping = tensors.grouping(scale, inputs // groups, tensors.has(zero))
    known = (width, of_inputs, grouping)
    return gptq.made_of(f"{module}.weight", (outputs, inputs), names, matrix, known)


def _bytes(tensors: Tensors, module: str) -> Made:
    """Signed bytes, with a scale for each output, or for each of its groups."""
    name, scale, zero = (f"{module}.weight{part}" for part in ("", "_scale", "_zero_point"))
    outputs, inputs = tensors.check(name, (None, None), "I8")
    scales_of = fp8.read_scales(tensors, scale, (outputs, inputs), (0, 0))
    groups = scales_of.values.shape[1]

    def make(expert: int | None) -> Rows:
        scales = fp8.read_scales(tensors, scale, (outputs, inputs), (0, 0)).values
        zeros = np.full((outputs, groups), _MIDDLE, np.uint16)
        if tensors.has(zero):
            found = tensors.wholes(zero, tensors.shape(zero), "I8").astype(np.int16)
            if found.size not in (1, outputs, outputs * groups):
                raise tensors.bad(zero, f"has shape {found.shape}, the scales {scales.shape}")
            zeros = np.broadcast_to(
                (found + _MIDDLE).astype(np.uint16).reshape(-1, min(groups, found.size)),
                (outputs, groups),
            )
        raw = tensors.raw(name, (outputs, inputs), "I8")
        scales = np.broadcast_to(scales, (outputs, groups))
        return affine.rows(affine.Affine(raw ^ np.uint8(_MIDDLE), scales, zeros, 8))

    names = [part for part in (name, scale, zero) if tensors.has(part)]
    form = affine.nominal(8, inputs, inputs // groups)
    grouping = tensors.grouping(scale, inputs // groups, tensors.has(zero))
    return Made(name, form, (outputs, inputs), names, make, grouping)
