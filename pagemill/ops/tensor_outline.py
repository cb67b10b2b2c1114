"""What a network takes on a torch backend, before a byte of its weights is read.

The network is built over weights that have a shape and a format but no contents, and what layouts
and caches take is added up. Nothing of torch is loaded. Must not know: which network it is, what a
step needs besides.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import Unsupported
from pagemill.ops.alone import Alone
from pagemill.ops.interface import Array, Float32, Grouping, Order, Weight
from pagemill.ops.plain.layouts.table import has_layout, matrix_bytes
from pagemill.types import KeptWeights
from pagemill.weights import formats

_ELEMENTS = MappingProxyType({"f32": 4, "f16": 2, "bf16": 2, "q8": 1, "fp8": 1})
_DENSE = MappingProxyType({"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)})
_SINGLE = 4  # bytes of a number in single precision
# As `Weight.segments` has it, and what is known of its scales.
_Part = tuple[tuple[str, NDArray[np.uint8], int, Order | None], Grouping | None]


class _Layers:
    """Stands for a cache or states of any size."""

    def __getitem__(self, layer: int) -> _Layers:
        return self


class TensorOutline(Alone):
    """`Ops` as far as networks need them to be built."""

    name = "torch"

    def __init__(self, dtype: str, kv_dtype: str, keeps_codes: bool) -> None:
        """`dtype` is what is computed in; `kv_dtype` as `--kv-cache-dtype` has it; `keeps_codes`:
        quantized matrices stay so."""
        self._dtype, self._keeps_codes = dtype, keeps_codes
        self._of_element = _ELEMENTS.get(kv_dtype, _DENSE[dtype][1])
        self._of_vector = _SINGLE if kv_dtype in ("q8", "fp8") else 0
        self._kept: Counter[tuple[str, str]] = Counter()
        self._stored: Counter[tuple[str, str]] = Counter()
        self.vector_bytes = self.kv_token_bytes = self.state_bytes = 0

    def upload(self, weight: Weight, table: bool = False) -> Array:
        unknown = set(weight.formats) - set(formats.names())
        if unknown:
            raise Unsupported(
                f"the torch backends have no format {', '.join(sorted(unknown))}; "
                f"they have {', '.join(formats.names())}"
            )
        parts = zip(weight.segments, weight.groupings, strict=True)
        # Neighbours of one format, whose inputs are sorted alike, are one matrix.
        for (form, order), run in groupby(parts, _layout):
            same = list(run)
            kept, size = self._of_matrix(form, same, weight.shape[1])
            self._kept[form, kept] += size + (len(order) if self._codes_of(form) else 0)
            self._stored[form, kept] += sum(part[1].size for part, _ in same)
        return None

    def _codes_of(self, form: str) -> bool:
        return self._keeps_codes and has_layout(form)

    def _of_matrix(self, form: str, parts: list[_Part], k: int) -> tuple[str, int]:
        rows = sum(part[2] for part, _ in parts)
        if not self._codes_of(form):
            kept, of_element = _DENSE[self._dtype]
            return kept, rows * k * of_element
        known = [grouping for _, grouping in parts if grouping is not None]
        both = None
        if len(known) == len(parts):
            both = Grouping(
                min(grouping.inputs for grouping in known),
                max(grouping.scale_bytes for grouping in known),
                any(grouping.zeros for grouping in known),
            )
        return matrix_bytes(form, rows, k, self._dtype, both)

    def vector(self, values: Float32) -> Array:
        self.vector_bytes += _SINGLE * len(values)
        return values

    def new_kv(
        self,
        layers: int,
        num_pages: int,
        page_size: int,
        heads: int,
        dim: int,
        latent: bool = False,
    ) -> Array:
        of_head = dim * self._of_element + self._of_vector
        self.kv_token_bytes += layers * (1 if latent else 2) * heads * of_head
        return _Layers()

    def new_state(self, layers: int, slots: int, size: int) -> Array:
        self.state_bytes += layers * slots * size * _SINGLE
        return _Layers()

    def weights(self) -> tuple[KeptWeights, ...]:
        """Matrices by format."""
        return tuple(
            KeptWeights(form, kept, self._stored[form, kept], size)
            for (form, kept), size in self._kept.items()
        )


def _layout(part: _Part) -> tuple[str, bytes]:
    """The format, and the order of inputs as it is kept."""
    (form, _, _, order), _ = part
    return form, b"" if order is None else order.tobytes()
