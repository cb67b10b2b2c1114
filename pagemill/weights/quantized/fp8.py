"""Eight-bit floats (E4M3) under a scale for the matrix, for each output, or for each tile of it.

What "fp8" and "fbgemm_fp8" files hold; compressed-tensors' float-quantized matrices are the same.
Scales of activations are passed over: activations are not rounded here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pagemill.ops.interface import Float32, Grouping
from pagemill.weights.formats import f32, fp8
from pagemill.weights.keys import ConfigKeys
from pagemill.weights.quantized.tensors import Made, Tensors
from pagemill.weights.source import Rows

FLOAT8: Final = "F8_E4M3"
_SCALES = (".weight_scale_inv", ".weight_scale")  # both are multiplied with
_MOST_TILE = 1 << 24
_SLAB_ELEMENTS = 1 << 20
_SINGLE = 4  # bytes of a scale


def made(tensors: Tensors, config: ConfigKeys) -> Iterator[Made]:
    tile = (0, 0)
    if config.has("weight_block_size"):
        rows, columns = config.wholes("weight_block_size", 2, 1, _MOST_TILE)
        tile = (rows, columns)
    for module in tensors.names(".weight"):
        if tensors.dtype(f"{module}.weight") == FLOAT8:
            yield matrix(tensors, module, tile)


@dataclass(frozen=True, slots=True)
class Scales:
    """A scale for each tile of rows and columns; a tile of 0 is all of them."""

    values: Float32  # (tiles of rows, tiles of columns)
    tile: tuple[int, int]

    def of_blocks(self, start: int, stop: int, inputs: int, block: int) -> Float32:
        """Scales of the blocks of some rows."""
        rows, columns = np.arange(start, stop), np.arange(0, inputs, block)
        return self.values[(rows // self.tile[0])[:, None], (columns // self.tile[1])[None, :]]


def read_scales(
    tensors: Tensors, name: str, shape: tuple[int, int], tile: tuple[int, int]
) -> Scales:
    """The scales of a matrix (N, K), from a tensor of one, N, (N, 1), (N, groups), or one for each
    tile."""
    flat, sizes = _tiles(tensors, name, shape, tile)
    values = tensors.reals(name, tensors.shape(name), "F8_E8M0").reshape(flat)
    return Scales(values, sizes)


def _tiles(
    tensors: Tensors, name: str, shape: tuple[int, int], tile: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, int]]:
    """How many tiles of rows and of columns a tensor has scales of, and how large they are."""
    found = tensors.shape(name)
    flat = found + (1,) * (2 - len(found))
    if len(flat) > 2 or not all(flat):
        raise tensors.bad(name, f"has shape {found}, which are no scales of {shape}")
    sizes = []
    for count, size, given in zip(flat, shape, tile, strict=True):
        if count in (1, size) or (not given and size % count == 0):
            sizes.append(size // count)
        elif given and count == -(-size // given):
            sizes.append(given)
        else:
            raise tensors.bad(name, f"has shape {found}, which does not fit a matrix {shape}")
    return flat, (sizes[0], sizes[1])


def matrix(tensors: Tensors, module: str, tile: tuple[int, int]) -> Made:
    name = f"{module}.weight"
    scale = next((module + end for end in _SCALES if tensors.has(module + end)), None)
    if scale is None:
        raise tensors.bad(name, f"has no {' or '.join(end[1:] for end in _SCALES)}")
    outputs, inputs = tensors.check(name, (None, None), FLOAT8)

    def make(expert: int | None) -> Rows:
        raw = tensors.raw(name, (outputs, inputs), FLOAT8)
        scales = read_scales(tensors, scale, (outputs, inputs), tile)
        whole = inputs % fp8.BLOCK_SIZE == 0 and scales.tile[1] % fp8.BLOCK_SIZE == 0
        step, out = max(1, _SLAB_ELEMENTS // inputs), []
        for start in range(0, outputs, step):
            part = raw[start : start + step]
            block = fp8.BLOCK_SIZE if whole else 1
            of_blocks = scales.of_blocks(start, start + len(part), inputs, block)
            if whole:
                out.append(fp8.from_parts(part, of_blocks))
            else:
                out.append(f32.pack(fp8.table()[part] * of_blocks))
        return (fp8 if whole else f32).NAME, np.concatenate(out)

    form = f32.NAME if inputs % fp8.BLOCK_SIZE else fp8.NAME
    _, (_, of_columns) = _tiles(tensors, scale, (outputs, inputs), tile)
    grouping = Grouping(of_columns, _SINGLE)
    return Made(name, form, (outputs, inputs), (name, scale), make, grouping)
