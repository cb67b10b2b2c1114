"""What the bytes of quantized formats hold, as codes under scales, on any device.

One coding for each format. With c an element's code, or what a table has for it, an element is

    (c - zero) * s          or          c * s - m

where s is its group's scale, or a small number times the scale of a longer run ("coarse"), and m
the same of minimums; `zero` is one number, or one for each group. The meaning is that of
`weights.formats.<format>.unpack` to the last bit. Must not know: how codes lie in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from pagemill.ops.plain.layouts.fields import half, short, signed, single, six_bits, split_bits
from pagemill.weights.formats import fp4, nf4
from pagemill.weights.formats.levels import FLOAT4, NON_LINEAR


@dataclass(frozen=True, slots=True)
class Scales:
    """What stands beside codes, (..., groups). `shifts` are minimums or zero points."""

    scales: Tensor
    coarse: Tensor | None = None  # (..., runs)
    shifts: Tensor | None = None
    coarse_shifts: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Coding:
    """How a format's blocks (..., bytes of a block) are read: codes (..., elements), numbers below
    16 or signed bytes, and scales."""

    bits: int
    group: int  # elements that share a scale
    codes: Callable[[Tensor], Tensor]
    scales: Callable[[Tensor], Scales]
    zero: int = 0
    values: tuple[float, ...] = ()  # the table
    minimums: bool = False  # what shifts are


def _halves(blocks: Tensor, at: int) -> Tensor:
    return split_bits(blocks[..., at:], 4, 16)


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """Bits of 32 elements, then the rest of them in halves of bytes."""
    fifth = split_bits(blocks[..., at : at + 4], 1, 1) << 4
    return _halves(blocks, at + 4) | fifth


def _q2_k(blocks: Tensor) -> Scales:
    levels = blocks[..., :16]
    return Scales(levels & 15, half(blocks, 80), levels >> 4, half(blocks, 82))


def _q3_k_codes(blocks: Tensor) -> Tensor:
    return split_bits(blocks[..., 32:96], 2, 32) | split_bits(blocks[..., :32], 1, 32) << 2


def _q3_k(blocks: Tensor) -> Scales:
    low, high = split_bits(blocks[..., 96:104], 4, 8), split_bits(blocks[..., 104:108], 2, 4)
    return Scales(signed(low | high << 4, 32), half(blocks, 108))


def _six_bits(blocks: Tensor) -> Scales:
    scales, minimums = six_bits(blocks[..., 4:16])
    return Scales(scales, half(blocks, 0), minimums, half(blocks, 2))


def _q5_k_codes(blocks: Tensor) -> Tensor:
    codes = split_bits(blocks[..., 48:], 4, 32) | split_bits(blocks[..., 16:48], 1, 32) << 4
    return codes.view(torch.int8)


def _q6_k_codes(blocks: Tensor) -> Tensor:
    low, high = split_bits(blocks[..., :128], 4, 64), split_bits(blocks[..., 128:192], 2, 32)
    return signed(low | high << 4, 32)


def _q6_k(blocks: Tensor) -> Scales:
    return Scales(blocks[..., 192:208].contiguous().view(torch.int8), half(blocks, 208))


def _iq4_xs(blocks: Tensor) -> Scales:
    low, high = split_bits(blocks[..., 4:8], 4, 1), split_bits(blocks[..., 2:4], 2, 1)
    return Scales(signed(low | high << 4, 32), half(blocks, 0))


def _powers_of_two(blocks: Tensor) -> Scales:
    exponents = blocks[..., :1].to(torch.int32) - 128
    # Those of 2^-128 and 2^-127 are below the normal numbers: made of two factors.
    half_way = exponents // 2
    return Scales(_power(half_way) * _power(exponents - half_way))


def _power(exponents: Tensor) -> Tensor:
    """2 to the power of normal exponents, exactly on every device."""
    return (exponents + 127 << 23).view(torch.float32)


def _nvfp4(blocks: Tensor) -> Scales:
    raw = blocks[..., :4].to(torch.int32)
    exponents, mantissa = raw >> 3 & 15, raw & 7
    leading = torch.where(exponents > 0, 8, 0)  # a bit that is not stored
    values = (mantissa + leading) * _power(exponents.clamp(min=1) - 7 - 3 - 1)
    return Scales(torch.where(raw == 127, 0.0, values))


def _ternary(raw: Tensor, digits: int) -> Tensor:
    """Base-three digits, all first ones, then all second ones, and so on."""
    powers = torch.tensor([3**i for i in range(digits)], dtype=torch.uint8, device=raw.device)
    fractions = raw[..., None, :] * powers[:, None]  # of 256; what is above is gone
    return (fractions.to(torch.int16) * 3 >> 8).to(torch.uint8).flatten(-2)


def _tq1_0_codes(blocks: Tensor) -> Tensor:
    runs = ((0, 32, 5), (32, 48, 5), (48, 52, 4))
    return torch.cat([_ternary(blocks[..., at:end], digits) for at, end, digits in runs], -1)


def _scale_at(at: int) -> Callable[[Tensor], Scales]:
    return lambda blocks: Scales(half(blocks, at))


def _scale_and_least(blocks: Tensor) -> Scales:
    return Scales(half(blocks, 0), shifts=-half(blocks, 2))


CODINGS = MappingProxyType(
    {
        "Q4_0": Coding(4, 32, lambda b: _halves(b, 2), _scale_at(0), zero=8),
        "Q4_1": Coding(4, 32, lambda b: _halves(b, 4), _scale_and_least, minimums=True),
        "Q4_K": Coding(4, 32, lambda b: split_bits(b[..., 16:], 4, 32), _six_bits, minimums=True),
        "Q3_K": Coding(4, 16, _q3_k_codes, _q3_k, zero=4),
        "Q2_K": Coding(4, 16, lambda b: split_bits(b[..., 16:80], 2, 32), _q2_k, minimums=True),
        "Q2_0": Coding(4, 64, lambda b: split_bits(b[..., 2:], 2, 1), _scale_at(0), zero=1),
        "Q1_0": Coding(4, 128, lambda b: split_bits(b[..., 2:], 1, 1) << 1, _scale_at(0), zero=1),
        "TQ2_0": Coding(4, 256, lambda b: split_bits(b[..., :64], 2, 32), _scale_at(64), zero=1),
        "TQ1_0": Coding(4, 256, _tq1_0_codes, _scale_at(52), zero=1),
        "INT4": Coding(
            4, 32, lambda b: _halves(b, 5), lambda b: Scales(single(b, 0), shifts=b[..., 4:5])
        ),
        "IQ4_NL": Coding(4, 32, lambda b: _halves(b, 2), _scale_at(0), values=NON_LINEAR),
        "IQ4_XS": Coding(4, 32, lambda b: _halves(b, 8), _iq4_xs, values=NON_LINEAR),
        "MXFP4": Coding(4, 32, lambda b: _halves(b, 1), _powers_of_two, values=FLOAT4),
        "NVFP4": Coding(4, 16, lambda b: split_bits(b[..., 4:], 4, 8), _nvfp4, values=FLOAT4),
        "NF4": Coding(
            4, 32, lambda b: _halves(b, 4), lambda b: Scales(single(b, 0)), values=nf4.TABLE
        ),
        "FP4": Coding(
            4, 32, lambda b: _halves(b, 4), lambda b: Scales(single(b, 0)), values=fp4.TABLE
        ),
        "Q8_0": Coding(8, 32, lambda b: b[..., 2:].contiguous().view(torch.int8), _scale_at(0)),
        "Q5_0": Coding(8, 32, lambda b: signed(_fifth_bits(b, 2), 16), _scale_at(0)),
        "Q5_1": Coding(
            8,
            32,
            lambda b: _fifth_bits(b, 4).view(torch.int8),
            _scale_and_least,
            minimums=True,
        ),
        "Q5_K": Coding(8, 32, _q5_k_codes, _six_bits, minimums=True),
        "Q6_K": Coding(8, 16, _q6_k_codes, _q6_k),
        "INT8": Coding(
            8,
            32,
            lambda b: (b[..., 6:] ^ 128).view(torch.int8),
            lambda b: Scales(single(b, 0), shifts=short(b, 4) - 128),
        ),
    }
)
