"""Rotary positions, and keys and values into their pages, in one pass over q, k and v.

Apart, torch's calls rotate q, rotate k and store both, in several launches each, and k is written
and read once more. Here it is one launch; of k and v only what the cache keeps is written, and in
eight bits the scale of a head's vector is found where the vector is in registers already.
"""

from __future__ import annotations

from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.norms import as_heads
from pagemill.ops.triton.variants import Variant

_LARGEST_INT8: tl.constexpr = tl.constexpr(127.0)
_LARGEST_FLOAT8: tl.constexpr = tl.constexpr(448.0)
_STORED = {torch.int8: "int8", torch.float8_e4m3fn: "float8"}


class Pages(Protocol):
    """A layer's cache: keys and values (pages, page_size, G, D), in eight bits with float32 scales
    (pages, page_size, G)."""

    @property
    def keys(self) -> Tensor: ...
    @property
    def values(self) -> Tensor: ...
    @property
    def key_scales(self) -> Tensor | None: ...
    @property
    def value_scales(self) -> Tensor | None: ...


def heads_of_program(dim: int) -> int:
    """Heads that one program takes: about a thousand numbers."""
    block: int = triton.next_power_of_2(dim)
    return max(1, 1024 // block)


def rope(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """(T, H, D) rotated. Row p of `cos` and `sin` (positions, half) is for position p: element i
    pairs with i + half; the rest of a head passes through."""
    return _launch(x, None, None, cos, sin, positions, None, None)


def rope_and_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    cache: Pages,
) -> Tensor:
    """q (T, H, D) rotated. k and v (T, G, D), k rotated as well, go into the cache's `slots`; what
    is of slot -1 is not kept."""
    return _launch(q, k, v, cos, sin, positions, slots, cache)


def store(k: Tensor, v: Tensor, slots: Tensor, cache: Pages) -> None:
    """k and v (T, G, D) into the cache as they are."""
    _launch(k[:, :0], k, v, None, None, None, slots, cache)


def _launch(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    positions: Tensor | None,
    slots: Tensor | None,
    cache: Pages | None,
) -> Tensor:
    tokens, num_heads, dim = q.shape
    half = 0 if cos is None else cos.shape[1]
    if 2 * half > dim:
        raise ValueError(f"angles for {2 * half} numbers, and heads of {dim}")
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    q = as_heads(q)
    k, v = (q if x is None else as_heads(x) for x in (k, v))  # q: no program reads it as k or v
    kept, stored, parts = 0, "", (None,) * 4
    if cache is not None:
        kept, stored = k.shape[1], _STORED.get(cache.keys.dtype, "whole")
        keys, values = cache.keys, cache.values
        if stored == "float8":  # as bits: not every card knows the type
            keys, values = keys.view(torch.uint8), values.view(torch.uint8)
        parts = (keys, values, cache.key_scales, cache.value_scales)
    heads = heads_of_program(dim)
    programs = triton.cdiv(num_heads, heads) + triton.cdiv(kept, heads)
    if tokens and programs:
        _rope_kernel[tokens, programs](
            q, k, v, out, cos, sin, positions, slots, *parts, num_heads, kept,
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
            DIM=dim, HALF=half, STORED=stored, HEADS=heads, BLOCK=triton.next_power_of_2(dim),
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["num_heads", "kept"])
def _rope_kernel(
    q, k, v, out, cos, sin, positions, slots, keys, values, key_scales, value_scales,
    num_heads, kept, q_token, q_head, k_token, k_head, v_token, v_head,
    DIM: tl.constexpr, HALF: tl.constexpr, STORED: tl.constexpr,
    HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    position = token
    if HALF:
        position = tl.load(positions + token).to(tl.int64)
    query_programs = tl.cdiv(num_heads, HEADS)
    if tl.program_id(1) < query_programs:
        there = head < num_heads
        y = _turned(
            q + token * q_token + head * q_head, cos, sin, position, there, DIM, HALF, BLOCK
        )
        _write(out + (token * num_heads + head) * DIM, y, there, DIM, BLOCK)
    elif STORED != "":
        slot = tl.load(slots + token).to(tl.int64)
        head -= query_programs * HEADS
        there = head < tl.where(slot < 0, 0, kept)
        at = slot * kept + head
        y = _turned(
            k + token * k_token + head * k_head, cos, sin, position, there, DIM, HALF, BLOCK
        )
        _keep(keys, key_scales, at, y, there, DIM, STORED, BLOCK)
        y = _turned(v + token * v_token + head * v_head, cos, sin, position, there, DIM, 0, BLOCK)
        _keep(values, value_scales, at, y, there, DIM, STORED, BLOCK)


@triton.jit
def _turned(
    heads, cos, sin, position, there,
    DIM: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Vectors (HEADS, BLOCK) rotated, in their own type; zeros where there are none."""
    i = tl.arange(0, BLOCK)
    inside = there[:, None] & (i < DIM)[None, :]
    x = tl.load(heads[:, None] + i[None, :], inside, 0.0)
    if HALF:
        first, turns = i < HALF, i < 2 * HALF
        other = tl.load(
            heads[:, None] + tl.where(first, i + HALF, i - HALF)[None, :],
            inside & turns[None, :],
            0.0,
        )  # the lines that x came from: they are near
        angle = position * HALF + tl.where(first, i, i - HALF)
        c = tl.load(cos + angle, turns, 1.0)[None, :]
        s = tl.load(sin + angle, turns, 0.0)
        s = tl.where(first, -s, s)[None, :]
        x = (x.to(tl.float32) * c + other.to(tl.float32) * s).to(x.dtype)
    return x


@triton.jit
def _keep(
    pages, scales, at, x, there, DIM: tl.constexpr, STORED: tl.constexpr, BLOCK: tl.constexpr
):
    """Vectors (HEADS, BLOCK) into places `at` of the pages, as codes and scales in eight bits."""
    if STORED == "whole":
        _write(pages + at * DIM, x, there, DIM, BLOCK)
    else:
        y = x.to(tl.float32)
        largest = _LARGEST_INT8 if STORED == "int8" else _LARGEST_FLOAT8
        scale = tl.div_rn(tl.maximum(tl.max(tl.abs(y), 1), 1e-30), largest)
        tl.store(scales + at, scale, there)
        y = tl.div_rn(y, tl.broadcast_to(scale[:, None], y.shape))
        y = tl.minimum(tl.maximum(y, -largest), largest)
        code = to_even(y) if STORED == "int8" else float8_bits(y)
        _write(pages + at * DIM, code, there, DIM, BLOCK)


@triton.jit
def _write(heads, x, there, DIM: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    inside = there[:, None] & (i < DIM)[None, :]
    tl.store(heads[:, None] + i[None, :], x.to(heads.dtype.element_ty), inside)


@triton.jit
def to_even(x):
    """Float32 rounded to a whole number, halves to the even one, for |x| < 2^22: from 1.5 * 2^23
    on, neighbouring floats are 1 apart."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def float8_bits(x):
    """Float32, at most 448 large, as the bits of float8 e4m3, rounded to even: the conversion
    itself is an instruction of newer cards only."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    # 20 of 23 bits of mantissa go, the exponent's bias is 7 and not 127; what is below 2^-6 is
    # counted in steps of 2^-9, whose count is the code.
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    small = to_even(tl.abs(x) * 512.0).to(tl.int32)
    code = tl.where(size < (121 << 23), small, normal)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)


def _variant(stored: str, dim: int, half: int) -> Variant:
    types = dict.fromkeys(("q", "k", "v", "out"), "*bf16")
    constants: dict[str, object] = {"DIM": dim, "HALF": half, "STORED": stored}
    constants |= {"HEADS": heads_of_program(dim), "BLOCK": triton.next_power_of_2(dim)}
    turned = {"cos": "*fp32", "sin": "*fp32", "positions": "*i32"}
    pages = ("slots", "keys", "values", "key_scales", "value_scales")
    page_types = {"whole": "*bf16", "int8": "*i8", "float8": "*u8"}
    coded = stored in ("int8", "float8")
    if half:
        types |= turned
    else:
        constants |= dict.fromkeys(turned)
    if stored:
        types |= {"slots": "*i32", "keys": page_types[stored], "values": page_types[stored]}
    if coded:
        types |= {"key_scales": "*fp32", "value_scales": "*fp32"}
    constants |= {name: None for name in pages if name not in types}
    types |= dict.fromkeys(("num_heads", "kept"), "i32")
    strides = [f"{x}_{of}" for x in "qkv" for of in ("token", "head")]
    types |= dict.fromkeys(strides, "i32:16")
    name = f"{'rotated' if half else 'as it is'}, {stored or 'not stored'}, heads of {dim}"
    return Variant(name, _rope_kernel, types, constants)


VARIANTS = (
    _variant("", 128, 64),
    _variant("whole", 128, 64),
    _variant("int8", 128, 64),
    _variant("float8", 128, 64),
    _variant("whole", 80, 16),
    _variant("whole", 128, 0),
)
