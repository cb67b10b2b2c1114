"""What each format takes on a device: for plans, without loading an array library."""

from types import MappingProxyType

# Bits of an element, scales included. Of quantized folders' formats it is the most that they take:
# where groups are wider than their blocks of 32, scales take less.
_BITS = MappingProxyType(
    {
        "Q8_0": 8.5, "Q5_1": 9, "Q5_0": 8.5, "Q4_1": 5, "Q4_0": 4.5, "Q6_K": 8.5625,
        "Q5_K": 8.625, "Q4_K": 4.625, "Q3_K": 4.5625, "Q2_K": 5.125, "IQ4_NL": 4.5,
        "IQ4_XS": 4.3125, "MXFP4": 4.5, "NVFP4": 5, "TQ2_0": 4.0625, "TQ1_0": 4.0625, "Q2_0": 4.25,
        "Q1_0": 4.125, "INT4": 5.25, "INT8": 9.5, "NF4": 5, "FP4": 5, "FP8": 8.25,
    }
)  # fmt: skip
_DENSE = MappingProxyType({"float32": 32, "float16": 16, "bfloat16": 16})


def device_bits(form: str, dtype: str) -> float:
    """Bits of an element of a large matrix in the format `form`, on a device whose models compute
    in `dtype`: a format without a layout is unpacked to that."""
    return _BITS.get(form, _DENSE[dtype])


def has_layout(form: str) -> bool:
    """Whether matrices of a format keep their stored codes, or are unpacked."""
    return form in _BITS
