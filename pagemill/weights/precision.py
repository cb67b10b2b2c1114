"""Weights in another format than the file's: what `dtype` and `quantization` ask for.

Matrices are converted while they are read, some rows at a time, and need no more memory than the
result takes. Must not know: where tensors come from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import Unsupported
from pagemill.weights import formats
from pagemill.weights.cursor import show
from pagemill.weights.source import Rows, Stored

_FULL = ("F32", "F16", "BF16")
_DTYPES = MappingProxyType({"float32": "F32", "float16": "F16", "bfloat16": "BF16"})
# Of each way to quantize: the format of matrices, of those whose rows are no whole blocks of it, and
# of the embedding and the head, which see every token and lose most.
_QUANTIZATIONS = MappingProxyType(
    {
        "int8": ("Q8_0", "Q8_0"),
        "int4": ("Q4_K", "Q8_0"),
        "fp8": ("FP8", "FP8"),
    }
)
