"""Weights in another format than the file's: what the settings `dtype` and `quantization` ask for.

Matrices are converted while they are read, some rows at a time, and need little more memory than
the result takes. Must not know: where tensors come from.
"""

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import Unsupported
from pagemill.ops.interface import Grouping
from pagemill.weights import formats
from pagemill.weights.cursor import show
from pagemill.weights.source import AsStored, Rows, Stored

AUTO, NONE = "auto", "none"
_FULL = ("F32", "F16", "BF16")
_DTYPES = MappingProxyType({"float32": "F32", "float16": "F16", "bfloat16": "BF16"})
_QUANTIZATIONS = MappingProxyType({"int8": "Q8_0", "int4": "Q4_0", "fp8": "FP8"})
# Embedding and head see every token and lose most.
_ENDS = MappingProxyType({"token_embd.weight": "Q8_0", "output.weight": "Q8_0"})
_KEPT = ("ffn_gate_inp",)  # routers: small, and a wrong choice costs much
_MATRIX_DIMS = 2
_SINGLE = 4  # bytes of a scale
_SLAB_ELEMENTS = 1 << 18
_MOST_THREADS = 16  # each has a slab in hand


@dataclass(frozen=True, slots=True)
class Precision:
    """How full-precision matrices are kept. `dtype`: "auto" (as they are stored) or one of float32,
    float16, bfloat16; `quantization`: "none", or one of int8, int4, fp8 for the matrices of layers,
    with embedding and head in eight bits."""

    dtype: str = AUTO
    quantization: str = NONE

    def apply(self, tensors: Mapping[str, Stored], name: str) -> Mapping[str, Stored]:
        """Tensors by GGUF's name, of the file `name`, as they are to be kept."""
        out, quantized = dict(tensors), 0
        for tensor, stored in tensors.items():
            if len(stored.shape) < _MATRIX_DIMS or stored.format not in _FULL:
                continue
            form = self._quantized(tensor, stored.shape[-1])
            quantized += form is not None
            form = form or _DTYPES.get(self.dtype, stored.format)
            if form != stored.format:
                out[tensor] = Converted(stored, form)
        if self.quantization != NONE and not quantized:
            raise Unsupported(
                f"{name}: --quantization {self.quantization} is for weights in full precision, and "
                "this model has no such matrices"
            )
        return out

    def _quantized(self, tensor: str, inputs: int) -> str | None:
        """The format to quantize a tensor to; None: it is not."""
        form = _ENDS.get(tensor)
        if form is None and tensor.startswith("blk.") and tensor.endswith(".weight"):
            form = _QUANTIZATIONS.get(self.quantization)
        if self.quantization == NONE or form is None or any(kept in tensor for kept in _KEPT):
            return None
        return None if inputs % formats.get(form).BLOCK_SIZE else form


class Converted(AsStored):
    """A full-precision tensor in another format."""

    def __init__(self, of: Stored, form: str) -> None:
        self.name, self.shape = of.name, of.shape
        self.format = form
        # Our own FP8 has a scale for each output.
        self.grouping = Grouping(of.shape[-1], _SINGLE) if form == "FP8" else None
        rows = math.prod(of.shape[:-1])
        self.nbytes = rows * formats.bytes_per_row(form, of.shape[-1])
        self._of = of

    @property
    def origins(self) -> Sequence[str]:
        return self._of.origins

    def read(self, expert: int | None = None) -> Rows:
        form, rows = self._of.read(expert)
        inputs = self.shape[-1]
        if form not in _FULL:  # as it turned out
            return form, rows
        out = np.empty((len(rows), formats.bytes_per_row(self.format, inputs)), np.uint8)
        unpack, pack = formats.get(form).unpack, formats.get_packing(self.format).pack
        step = max(1, _SLAB_ELEMENTS // inputs)

        def convert(start: int) -> None:
            out[start : start + step] = pack(unpack(rows[start : start + step]))

        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
            list(threads.map(convert, range(0, len(rows), step)))
        if self.format == "F16":
            self._check_halves(out)
        return self.format, out

    def _check_halves(self, out: NDArray[np.uint8]) -> None:
        """Half precision ends at 65,504."""
        if np.isinf(out.view("<f2")).any():
            raise Unsupported(
                f"tensor {show(self.name)} has values that float16 cannot hold; "
                "--dtype bfloat16 or float32 can"
            )
