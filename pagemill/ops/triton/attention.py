"""What attention kernels over pages share: how a program walks through a row's history.

A program holds a tile of queries, all of which read one key/value head, and sweeps over tiles of
the history with an online softmax (Milakov and Gimelshein, 2018; Dao, "FlashAttention-2", 2023).
Choices that hold for every kernel:

- Softmax runs in powers of two: log2(e) is folded into the scale, so that an exponential is one
  instruction and the scale joins its subtraction.
- A tile takes several pages: each of its tokens looks its page up in the table, and a token's head
  vector is contiguous, so loads are as wide as with memory in one piece.
- A head size that is no power of two is cut in two powers, 80 = 64 + 16 or 576 = 512 + 64, instead
  of being padded to the next. Latent attention cuts between the latent part and the rotary part:
  values are the first part of the keys, and are read once.
- Eight-bit caches: codes go into the products as they are (bfloat16 and float16 hold each of them),
  scales of keys are applied to scores and scales of values to probabilities, one number a token.

Must not know: where tiles begin and end, and where results go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.interface import Scoring
from pagemill.ops.plain.cache import LayerCache
from pagemill.ops.triton.card import LARGE, SMALL, Card
from pagemill.ops.triton.variants import Variant

LOG2_E = tl.constexpr(1.4426950408889634)
# Where a running maximum begins: finite, for the difference of two infinities is no number.
LOWEST = tl.constexpr(-1.0e30)
_LEAST_TOKENS = 16  # that a product takes
_BESIDE = 72  # bytes that are kept for each token, at most


class HeadParts(NamedTuple):
    """A head vector as one or two runs: `first` elements in a tile of `width`, then the rest."""

    first: int
    width: int
    rest_width: int  # 0: there is no rest


def head_parts(dim: int, latent: int = 0) -> HeadParts:
    """How a head of `dim` is cut. Products take tiles of powers of two, 16 at least."""
    whole = max(16, triton.next_power_of_2(dim))
    first = latent or 1 << (dim.bit_length() - 1)
    width = max(16, triton.next_power_of_2(first))
    rest_width = max(16, triton.next_power_of_2(dim - first)) if dim > first else 0
    if latent or width + rest_width < whole:
        return HeadParts(first, width, rest_width)
    return HeadParts(dim, whole, 0)


class Tiles(NamedTuple):
    """Sizes of a program: queries, tokens of history, and what the compiler is told.

    A tile of history is a load behind a load, of the page table, so a stage of Triton's pipeline is
    half of one: 2 n + 1 stages keep n tiles on their way.
    """

    queries: int
    tokens: int
    num_warps: int
    num_stages: int


def fitting(tiles: Tiles, query_bytes: int, token_bytes: int, card: Card) -> Tiles:
    """The same with as many tokens as shared memory holds of those that are on their way, beside
    the queries; of small tiles fewer are. Of each token its page and its place are there, too."""
    room = card.shared - tiles.queries * query_bytes
    tokens, on_their_way = tiles.tokens, tiles.num_stages // 2
    while on_their_way and on_their_way * tokens * (token_bytes + _BESIDE) > room:
        if tokens > _LEAST_TOKENS:
            tokens //= 2
        else:
            on_their_way -= 1
    return tiles._replace(tokens=tokens, num_stages=2 * on_their_way + 1)


def head_constants(
    q_shape: tuple[int, ...], cache_shape: tuple[int, ...], scoring: Scoring, latent: int
) -> dict[str, Any]:
    """What is compiled in: a network has one or two of these. Queries (T, H, D), keys (pages,
    page_size, G, D)."""
    _, page_size, kv_heads, dim = cache_shape
    parts = head_parts(dim, latent)
    return {
        "H": q_shape[1],
        "G": kv_heads,
        "D": dim,
        "VALUE_DIM": latent or dim,
        "FIRST": parts.first,
        "WIDTH": parts.width,
        "REST_WIDTH": parts.rest_width,
        "LATENT": bool(latent),
        "PAGE_SIZE": page_size,
        "WINDOW": scoring.window,
        "SOFTCAP": scoring.softcap,
    }


def cards_of(kind: str) -> Iterator[tuple[tuple[int, ...], Card]]:
    """Compute capabilities that read caches of this Triton type, and a card of such. Eight-bit
    floats are bytes where they have none."""
    if kind != "*fp8e4nv":
        yield (80,), SMALL
    if kind != "*u8":
        yield (90, 100), LARGE


def attention_variant(
    name: str,
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    tiles: Tiles,
    given: Collection[str],
    archs: tuple[int, ...],
) -> Variant:
    """A kernel over pages as it is launched for bfloat16 queries, with the optional arguments that
    are `given`. `types` says what keys and values are."""
    types = types | {"q": "*bf16", "page_table": "*i32", "kv_lens": "*i32", "scale": "fp32"}
    types |= {"q_row": "i32:16", "q_head": "i32:16", "table_row": "i32"}
    constants = constants | {"BLOCK_M": tiles.queries, "BLOCK_N": tiles.tokens}
    for optional in ("key_scales", "value_scales", "sinks"):
        if optional in given:
            types[optional] = "*fp32"
        else:
            constants[optional] = None
    return Variant(name, kernel, types, constants, tiles.num_warps, tiles.num_stages, archs)


def stored(cache: LayerCache, latent: int) -> tuple[Tensor | None, ...]:
    """Keys, values and the scales of both, as kernels can read them. Of latent attention values are
    a part of the keys."""
    keys = _codes(cache.keys)
    if latent:
        return keys, keys, cache.key_scales, cache.key_scales
    return keys, _codes(cache.values), cache.key_scales, cache.value_scales


def _codes(stored: Tensor) -> Tensor:
    """float8 as bytes on cards that have no such numbers."""
    if stored.dtype != torch.float8_e4m3fn or not stored.is_cuda:
        return stored
    has_float8 = torch.version.cuda and torch.cuda.get_device_capability(stored.device) >= (8, 9)
    return stored if has_float8 else stored.view(torch.uint8)


@triton.jit
def numbers(codes, dtype: tl.constexpr):
    """Stored codes as numbers of a product; bytes are float8 e4m3."""
    if codes.dtype == tl.uint8:
        # The fields of float16 are wider: moved into place, a number is 2^8 times too small.
        bits = codes.to(tl.uint16)
        bits = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
        return (bits.to(tl.float16, bitcast=True) * 256.0).to(dtype)
    if codes.dtype == tl.int8:
        return codes.to(tl.float32).to(dtype)
    return codes.to(dtype)


@triton.jit
def vectors(base, starts, present, FIRST: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """Elements FIRST .. FIRST + SIZE of the vectors that begin at `starts`: (starts, WIDTH), zeros
    where there is nothing. What is not `present` may hold anything, and zero times that is not
    zero, so it is not read."""
    d = tl.arange(0, WIDTH)
    at = base + starts[:, None] + (FIRST + d)[None, :]
    if SIZE < WIDTH:
        return tl.load(at, mask=present[:, None] & (d < SIZE)[None, :], other=0.0)
    return tl.load(at, mask=present[:, None], other=0.0)


@triton.jit
def opening(
    q,
    starts,
    valid,
    sinks,
    head,
    has_sink,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    REST_WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """The queries that begin at `starts`, in two parts, and the state of `sweep` before a token was
    seen. A sink is one more score, where `has_sink`, and has no value."""
    query = vectors(q, starts, valid, 0, FIRST, WIDTH)
    rest_query = query
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    rest_acc = acc
    if REST_WIDTH:
        rest_query = vectors(q, starts, valid, FIRST, D - FIRST, REST_WIDTH)
        rest_acc = tl.zeros([BLOCK_M, REST_WIDTH], tl.float32)
    top = tl.full([BLOCK_M], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if sinks is not None:
        sink = tl.load(sinks + head, mask=valid, other=0.0).to(tl.float32) * LOG2_E
        top = tl.where(has_sink, sink, top)
        total = tl.where(has_sink, 1.0, total)
    return (query, rest_query), (acc, rest_acc, top, total)


@triton.jit
def store(
    base,
    starts,
    valid,
    acc,
    rest_acc,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    REST_WIDTH: tl.constexpr,
    LATENT: tl.constexpr,
):
    """Both parts of sums as the vectors that begin at `starts`."""
    _store(base, starts, valid, acc, 0, FIRST, WIDTH)
    if REST_WIDTH and not LATENT:
        _store(base, starts, valid, rest_acc, FIRST, D - FIRST, REST_WIDTH)


@triton.jit
def _store(base, starts, valid, x, FIRST: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    d = tl.arange(0, WIDTH)
    at = base + starts[:, None] + (FIRST + d)[None, :]
    tl.store(at, x.to(base.dtype.element_ty), mask=valid[:, None] & (d < SIZE)[None, :])


@triton.jit
def sweep(
    state,
    queries,
    position,
    first,
    last,
    kv_len,
    head,
    pages,
    keys,
    values,
    key_scales,
    value_scales,
    scale,
    G: tl.constexpr,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    REST_WIDTH: tl.constexpr,
    LATENT: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Tokens first .. last of the history, whole tiles of them, taken into the state: sums of
    values by probability in two parts, largest score and sum of probabilities of each query. Query
    m stands at position[m]; tiles that all queries see whole need no mask."""
    acc, rest_acc, top, total = state
    q, rest_q = queries
    dtype: tl.constexpr = q.dtype
    for start in range(first, last, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        present = n < kv_len
        page = tl.load(pages + n // PAGE_SIZE, mask=present, other=0).to(tl.int64)
        which = (page * PAGE_SIZE + n % PAGE_SIZE) * G + head
        k = numbers(vectors(keys, which * D, present, 0, FIRST, WIDTH), dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if REST_WIDTH:
            rest = vectors(keys, which * D, present, FIRST, D - FIRST, REST_WIDTH)
            rest = tl.trans(numbers(rest, dtype))
            scores = tl.dot(rest_q, rest, scores, input_precision="ieee")
        if key_scales is not None:
            scores *= tl.load(key_scales + which, mask=present, other=0.0)[None, :]
        if SOFTCAP > 0:
            scores *= 2.0 * LOG2_E * scale / SOFTCAP
            scores = SOFTCAP - 2.0 * SOFTCAP / (1.0 + tl.exp2(scores))  # tanh, as exponentials
            factor = LOG2_E
        else:
            factor = LOG2_E * scale
        if MASKED:
            seen = n[None, :] <= position[:, None]
            if WINDOW:
                seen = seen & (n[None, :] > position[:, None] - WINDOW)
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1) * factor)
        p = tl.exp2(scores * factor - higher[:, None])
        fade = tl.exp2(top - higher)
        top = higher
        total = total * fade + tl.sum(p, 1)
        if value_scales is not None:
            p *= tl.load(value_scales + which, mask=present, other=0.0)[None, :]
        p = p.to(dtype)
        acc *= fade[:, None]
        if LATENT:
            acc = tl.dot(p, k, acc, input_precision="ieee")
        else:
            v = numbers(vectors(values, which * D, present, 0, FIRST, WIDTH), dtype)
            acc = tl.dot(p, v, acc, input_precision="ieee")
        if REST_WIDTH and not LATENT:
            v = vectors(values, which * D, present, FIRST, D - FIRST, REST_WIDTH)
            rest_acc *= fade[:, None]
            rest_acc = tl.dot(p, numbers(v, dtype), rest_acc, input_precision="ieee")
    return acc, rest_acc, top, total
