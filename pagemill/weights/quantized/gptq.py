"""GPTQ (Frantar et al., 2022): 2, 3, 4 or 8 bits, scales and zero points by group of inputs.

Files of the first version store zero points less one. With "act-order" inputs were sorted before
they were grouped, and g_idx says which group an input belongs to: sorted again, neighbours share
scales as without.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pagemill.ops.interface import Grouping
from pagemill.weights.keys import ConfigKeys
from pagemill.weights.quantized import affine, bits
from pagemill.weights.quantized.tensors import Made, Sorted, Tensors

_BITS = (2, 3, 4, 8)
_VERSIONS = ("gptq", "gptq_v2")


def made(tensors: Tensors, config: ConfigKeys) -> Iterator[Made]:
    version = config.text("checkpoint_format", _VERSIONS[0])
    if version not in _VERSIONS:
        choices = ", ".join(_VERSIONS)
        raise config.unsupported("checkpoint_format", f"is {version[:32]!r}, not one of {choices}")
    symmetric = config.flag("sym", False)
    for module in tensors.names(".qweight"):
        yield _matrix(tensors, module, version == _VERSIONS[0], symmetric)


def _matrix(tensors: Tensors, module: str, less_one: bool, symmetric: bool) -> Made:
    """Sizes and bits follow from the tensors; modules of one file may differ."""
    names = [f"{module}.{part}" for part in ("qweight", "scales", "qzeros", "g_idx")]
    packed, scales, zeros, order = names
    groups, outputs = tensors.check(scales, (None, None), "F16", "BF16", "F32")
    words = tensors.check(packed, (None, outputs), "I32")[0]
    zero_words = tensors.check(zeros, (groups, None), "I32")[1]
    width = zero_words * 32 // outputs
    if width not in _BITS or zero_words != bits.words_of(outputs, width):
        raise tensors.bad(zeros, f"has {zero_words} words for {outputs} outputs: of {width} bits")
    inputs = words * 32 // width
    if words != bits.words_of(inputs, width) or inputs % groups:
        raise tensors.bad(packed, f"has {inputs} inputs in {groups} groups")
    if not tensors.has(order):
        del names[3]

    of_inputs = order_of(tensors, order, inputs, groups)

    def matrix() -> affine.Affine:
        columns = np.ascontiguousarray(tensors.wholes(packed, (words, outputs)).T)
        of_groups = bits.unpack(tensors.wholes(zeros, (groups, zero_words)), width, outputs)
        real = np.ascontiguousarray(tensors.reals(scales, (groups, outputs)).T)
        return affine.Affine(
            quants=bits.unpack(columns, width, inputs),
            scales=real,
            zeros=of_groups.T.astype(np.uint16) + np.uint16(less_one),
            bits=width,
            groups=of_inputs,
        )

    grouping = tensors.grouping(scales, inputs // groups, not symmetric)
    shape = (outputs, inputs)
    return made_of(f"{module}.weight", shape, names, matrix, (width, of_inputs, grouping))


def made_of(
    name: str,
    shape: tuple[int, int],
    origins: Sequence[str],
    matrix: Callable[[], affine.Affine],
    known: tuple[int, NDArray[np.intp] | None, Grouping],
) -> Made:
    """A matrix of groups. Known of it are its bits, `order_of` it, and its groups: inputs are
    sorted where they are not in order."""
    width, of_inputs, grouping = known
    order = affine.sorting(of_inputs, shape[1] // grouping.inputs)
    in_order = of_inputs is None or order is not None
    return Made(
        name,
        affine.nominal(width, shape[1], grouping.inputs if in_order else 1),
        shape,
        origins,
        lambda _: affine.rows(matrix()),
        grouping if in_order else None,
        None if order is None else Sorted(order, lambda: affine.rows(affine.sort(matrix(), order))),
    )


def order_of(tensors: Tensors, name: str, inputs: int, groups: int) -> NDArray[np.intp] | None:
    """The group of each input, where inputs are not simply in the order of groups."""
    if not tensors.has(name):
        return None
    order = tensors.wholes(name, (inputs,))
    if order.min() < 0 or order.max() >= groups:
        raise tensors.bad(name, f"names groups {order.min()} to {order.max()} of {groups}")
    if np.array_equal(order, np.arange(inputs) // (inputs // groups)):
        return None
    return order.astype(np.intp)
