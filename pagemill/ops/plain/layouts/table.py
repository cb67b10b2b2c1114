"""What each format takes on a device: for plans, without loading an array library.

The layouts themselves are files of this folder; a test compares. Must not know: networks.
"""

from dataclasses import dataclass
from types import MappingProxyType

from pagemill.ops.interface import Grouping

_RUNS = MappingProxyType({4: (32, 16), 8: (64, 32, 16)})  # see `coded`
_QUARTERS = 4
_WIDER = (128, 64)
_COARSE_RUN = 256
_FLOAT8_BLOCK = 128
_SINGLE = 4
_TABLE_BYTES = 64  # sixteen values in single precision


@dataclass(frozen=True, slots=True)
class _Codes:
    """Codes under scales: bytes that stand beside each group of inputs, and each run of 256."""

    bits: int
    group: int
    scale: int
    shift: int = 0
    coarse: int = 0
    table: bool = False


# Of quantized folders' formats it is the most that they take: where groups are wider than their
# blocks of 32, scales take less.
_CODES = MappingProxyType(
    {
        "Q4_0": _Codes(4, 32, 2),
        "Q4_1": _Codes(4, 32, 2, 2),
        "Q4_K": _Codes(4, 32, 1, 1, coarse=4),
        "Q3_K": _Codes(4, 16, 1, coarse=2),
        "Q2_K": _Codes(4, 16, 1, 1, coarse=4),
        "Q2_0": _Codes(4, 64, 2),
        "Q1_0": _Codes(4, 128, 2),
        "TQ2_0": _Codes(4, 256, 2),
        "TQ1_0": _Codes(4, 256, 2),
        "INT4": _Codes(4, 32, _SINGLE, 1),
        "IQ4_NL": _Codes(4, 32, 2, table=True),
        "IQ4_XS": _Codes(4, 32, 1, coarse=2, table=True),
        "MXFP4": _Codes(4, 32, 2, table=True),
        "NVFP4": _Codes(4, 16, 2, table=True),
        "NF4": _Codes(4, 32, _SINGLE, table=True),
        "FP4": _Codes(4, 32, _SINGLE, table=True),
        "Q8_0": _Codes(8, 32, 2),
        "Q5_0": _Codes(8, 32, 2),
        "Q5_1": _Codes(8, 32, 2, 2),
        "Q5_K": _Codes(8, 32, 1, 1, coarse=4),
        "Q6_K": _Codes(8, 16, 1, coarse=2),
        "INT8": _Codes(8, 32, _SINGLE, 2),
    }
)
_FLOAT8 = "FP8"
_DENSE = MappingProxyType({"float32": 4, "float16": 2, "bfloat16": 2})


def has_layout(form: str) -> bool:
    """Whether matrices of a format keep their stored codes, or are unpacked."""
    return form in _CODES or form == _FLOAT8


def matrix_bytes(
    form: str, rows: int, k: int, dtype: str, grouping: Grouping | None = None
) -> tuple[str, int]:
    """What a matrix in the format `form` is kept as, and its bytes, on a device that keeps codes
    and whose models compute in `dtype`. `grouping` is what is known of its scales."""
    if form == _FLOAT8:
        inputs = grouping.inputs if grouping else _FLOAT8_BLOCK
        if inputs == k or inputs % _FLOAT8_BLOCK == 0:
            blocks = 1 if inputs == k else -(-k // _FLOAT8_BLOCK)
            return form, rows * (k + _SINGLE * blocks)
    elif form in _CODES:
        return form, _coded(_CODES[form], rows, k, grouping)
    return {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype], rows * k * _DENSE[dtype]


def _coded(of: _Codes, rows: int, k: int, grouping: Grouping | None) -> int:
    group, scale, shift = of.group, of.scale, of.shift
    if grouping is not None:
        group, scale = _widest(grouping.inputs, k, group), grouping.scale_bytes
        shift = shift if grouping.zeros else 0
        if of.bits == 8 and group == k > of.group and not shift:  # both sides of products are int8
            return rows * (k + _SINGLE)
    run = next(run for run in _RUNS[of.bits] if group % run == 0)
    per_step = run if of.bits == 8 else run * _QUARTERS
    codes = -(-k // per_step) * per_step * of.bits // 8
    beside = k // group * (scale + shift) + k // _COARSE_RUN * of.coarse
    return rows * (codes + beside) + (_TABLE_BYTES if of.table else 0)


def _widest(inputs: int, k: int, least: int) -> int:
    """Of the groups that scales are kept for, the widest in which all are equal."""
    for wide in (k, *_WIDER):
        if wide > least and inputs % wide == 0 and k % wide == 0:
            return wide
    return least


def device_bits(form: str, dtype: str) -> float:
    """Bits of an element of a large matrix in the format `form`, on a device whose models compute
    in `dtype`: a format without a layout is unpacked to that."""
    if form in _CODES:
        of = _CODES[form]
        return of.bits + 8 * (of.scale + of.shift) / of.group + 8 * of.coarse / _COARSE_RUN
    return 8 + 8 * _SINGLE / _FLOAT8_BLOCK if form == _FLOAT8 else 8 * _DENSE[dtype]
