"""Attention of rows that bring one token each: the history of a row is split over programs.

A program takes the query heads of one key/value head (they read the same memory, so they share one
product) over one share of one row's history. Where there are several shares, each leaves its sums
and what they are relative to, and a second kernel adds them up (Dao et al., "Flash-Decoding",
2023). How many shares there may be is decided on the host from sizes alone, so that a captured
graph stays right for rows of any length; a program cuts its own row's history.

Must not know: which step this is, or how pages were filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.interface import Scoring
from pagemill.ops.plain.cache import LayerCache
from pagemill.ops.plain.step import DeviceStep
from pagemill.ops.triton.attention import (
    LOWEST,
    Tiles,
    attention_variant,
    cards_of,
    fitting,
    head_constants,
    opening,
    store,
    stored,
    sweep,
)
from pagemill.ops.triton.card import Card, card_of
from pagemill.ops.triton.variants import Variant

MOST_SHARES = tl.constexpr(64)  # of a row's history
PROGRAMS = 8  # for each multiprocessor: several at a time each, and uneven rows even out
_SHARED = ("H", "VALUE_DIM", "WINDOW", "BLOCK_N")  # constants of both kernels
TILE_BYTES = 40 << 10  # of keys and values: two on their way leave room for more programs


def decode_tiles(group: int, dim: int, itemsize: int, card: Card, latent: int = 0) -> Tiles:
    """Sizes for `group` query heads on a key/value head. The history is read once and reading it is
    all the work: tiles are as long as keeps several of them on their way."""
    most = (32 if latent else 64) // (2 if itemsize == 4 else 1)
    queries = min(max(16, triton.next_power_of_2(group)), most)
    token_bytes = dim * itemsize * (1 if latent else 2)
    tokens = 16
    while tokens < 64 and 2 * tokens * token_bytes <= TILE_BYTES:
        tokens *= 2
    # Tiles of eight-bit numbers are small: one more of them is on its way.
    tiles = Tiles(queries, tokens, 8 if dim > 256 else 4, num_stages=7 if itemsize == 1 else 5)
    return fitting(tiles, dim * max(2, itemsize), token_bytes, card)


def num_shares(programs: int, max_kv_len: int, tokens: int, multiprocessors: int) -> int:
    """Into how many shares a history may be cut when `programs` run for each: as many as it takes
    to keep the card busy. None is shorter than two tiles."""
    wanted = -(-PROGRAMS * multiprocessors // max(1, programs))
    longest = max_kv_len // (2 * tokens)
    return max(1, min(int(MOST_SHARES.value), wanted, longest))


def paged_decode(
    q: Tensor,
    cache: LayerCache,
    step: DeviceStep,
    scoring: Scoring,
    *,
    sinks: Tensor | None = None,
    latent: int = 0,
    into: Tensor | None = None,
    shares: int = 0,
) -> Tensor:
    """q (R, H, D), row r's token the last of its history -> (R, H, D). With `latent` the values are
    the first that many elements of the keys: -> (R, H, latent). Rows without history get zeros.

    With `into`, q is (T, H, D) of a step whose rows bring any number of tokens; results of those
    that bring one are written there. `shares` is chosen here unless given."""
    rows, (_, heads, dim), kv_heads = step.num_rows, q.shape, cache.keys.shape[2]
    group, card = heads // kv_heads, card_of(q.device)
    tiles = decode_tiles(group, dim, cache.keys.element_size(), card, latent)
    blocks = kv_heads * triton.cdiv(group, tiles.queries)
    sizes = (rows * blocks, step.max_kv_len, tiles.tokens, card.multiprocessors)
    shares = shares or num_shares(*sizes)
    constants = head_constants(q.shape, cache.keys.shape, scoring, latent)
    constants["BLOCK_N"] = tiles.tokens
    value_dim = latent or dim
    out, starts = into, step.row_starts
    if out is None:
        out, starts = q.new_empty((rows, heads, value_dim)), None
    sums, tops, totals = out, None, None
    if shares > 1:
        sums, tops, totals = _left(q, (rows, heads, shares), value_dim)
    if not rows:
        return out
    _decode[(blocks, shares, rows)](
        q,
        *stored(cache, latent),
        step.page_table,
        step.kv_lens,
        starts,
        sinks,
        sums,
        tops,
        totals,
        scoring.scale,
        q.stride(0),
        q.stride(1),
        step.page_table.stride(0),
        **constants,
        BLOCK_M=tiles.queries,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    if shares > 1:
        shared = {name: constants[name] for name in _SHARED}
        width = min(128, triton.next_power_of_2(value_dim))
        _combine[(rows, heads, triton.cdiv(value_dim, width))](
            sums, tops, totals, step.kv_lens, starts, out, shares, **shared, WIDTH=width
        )
    return out


def _left(q: Tensor, of: tuple[int, int, int], value_dim: int) -> tuple[Tensor, ...]:
    """What shares leave: their sums, and what these are relative to. No parts of one tensor, so
    that each begins aligned."""
    return tuple(q.new_empty(size, dtype=torch.float32) for size in ((*of, value_dim), of, of))


@triton.jit
def _shares(kv_len, shares, WINDOW: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where the first share of a row begins and how long each is: whole tiles, two at least."""
    begin = 0
    if WINDOW:
        begin = tl.maximum(kv_len - WINDOW, 0) // BLOCK_N * BLOCK_N
    tiles = tl.cdiv(tl.cdiv(kv_len - begin, BLOCK_N), shares)
    return begin, tl.maximum(tiles, 2) * BLOCK_N


@triton.jit
def _token(row_starts, row):
    """The token of a row, -1 of one that brings none or several."""
    token = row
    if row_starts is not None:
        start = tl.load(row_starts + row).to(tl.int64)
        token = tl.where(tl.load(row_starts + row + 1) == start + 1, start, -1)
    return token


@triton.jit(do_not_specialize=["table_row"])
def _decode(
    q,
    keys,
    values,
    key_scales,
    value_scales,
    page_table,
    kv_lens,
    row_starts,  # None: row r has token r
    sinks,
    out,  # (R, H, shares, VALUE_DIM); where there is one share, results (T, H, VALUE_DIM)
    tops,  # (R, H, shares); None: there is one
    totals,
    scale,
    q_row,
    q_head,
    table_row,
    H: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    REST_WIDTH: tl.constexpr,
    LATENT: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    row, share = tl.program_id(2).to(tl.int64), tl.program_id(1)
    shares = tl.num_programs(1)
    token = _token(row_starts, row)
    if token < 0:
        return
    kv_len = tl.load(kv_lens + row)
    begin, length = _shares(kv_len, shares, WINDOW, BLOCK_N)
    first = begin + share * length
    if tops is not None and first >= kv_len:
        return
    GROUP: tl.constexpr = H // G
    blocks: tl.constexpr = tl.cdiv(GROUP, BLOCK_M)
    kv_head = tl.program_id(0) // blocks
    of_group = tl.program_id(0) % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = of_group < GROUP
    head = kv_head * GROUP + of_group

    queries, state = opening(
        q, token * q_row + head * q_head, valid, sinks, head, share == 0,
        D, FIRST, WIDTH, REST_WIDTH, BLOCK_M,
    )  # fmt: skip
    acc, rest_acc, top, total = sweep(
        state, queries,
        tl.full([BLOCK_M], 0, tl.int32) + kv_len - 1, first, tl.minimum(first + length, kv_len),
        kv_len, kv_head, page_table + row * table_row, keys, values, key_scales, value_scales,
        scale, G, D, FIRST, WIDTH, REST_WIDTH, LATENT, PAGE_SIZE, WINDOW, SOFTCAP, BLOCK_N, True,
    )  # fmt: skip
    at = token * H + head
    if tops is not None:
        at = (row * H + head) * shares + share
        tl.store(tops + at, top, mask=valid)
        tl.store(totals + at, total, mask=valid)
    else:
        # A row without history has sums of zero.
        weight = 1.0 / tl.where(total > 0, total, 1.0)
        acc *= weight[:, None]
        rest_acc *= weight[:, None]
    store(out, at * VALUE_DIM, valid, acc, rest_acc, D, FIRST, WIDTH, REST_WIDTH, LATENT)


@triton.jit(do_not_specialize=["shares"])
def _combine(
    sums,
    tops,
    totals,
    kv_lens,
    row_starts,
    out,
    shares,
    H: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The shares of one head of one row, relative to one maximum, added up in their order."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = _token(row_starts, row)
    if token < 0:
        return
    kv_len = tl.load(kv_lens + row)
    begin, length = _shares(kv_len, shares, WINDOW, BLOCK_N)
    share = tl.arange(0, MOST_SHARES)
    used = (share < shares) & (begin + share * length < kv_len)
    at = (row * H + head) * shares + share
    top = tl.load(tops + at, mask=used, other=LOWEST)
    total = tl.load(totals + at, mask=used, other=0.0)
    weight = tl.exp2(top - tl.max(top, 0))
    total = tl.sum(weight * total, 0)
    weight /= tl.where(total > 0, total, 1.0)
    d = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    inside = d < VALUE_DIM
    where = sums + at[:, None] * VALUE_DIM + d[None, :]
    x = tl.load(where, mask=used[:, None] & inside[None, :], other=0.0)
    x = tl.sum(x * weight[:, None], 0)
    tl.store(out + (token * H + head) * VALUE_DIM + d, x.to(out.dtype.element_ty), mask=inside)


def _variants(
    name: str,
    heads: tuple[int, int, int],
    kind: str,
    scoring: Scoring,
    given: tuple[str, ...] = (),
    latent: int = 0,
) -> Iterator[Variant]:
    """As launched with histories in several shares; `heads` are H, G and D."""
    num_heads, kv_heads, dim = heads
    types = {"keys": kind, "values": kind, "out": "*fp32", "tops": "*fp32", "totals": "*fp32"}
    types["row_starts"] = "*i32"
    constants = head_constants((1, num_heads, dim), (1, 16, kv_heads, dim), scoring, latent)
    for archs, card in cards_of(kind):
        group, itemsize = num_heads // kv_heads, 2 if kind == "*bf16" else 1
        tiles = decode_tiles(group, dim, itemsize, card, latent)
        yield attention_variant(name, _decode, types, constants, tiles, given, archs)


_SCALES = ("key_scales", "value_scales")
VARIANTS = (
    *_variants("bf16, 4 heads of 128", (32, 8, 128), "*bf16", Scoring(1)),
    *_variants("bf16, 8 heads of 96", (64, 8, 96), "*bf16", Scoring(1)),
    *_variants("bf16, 8 heads of 256, all", (16, 2, 256), "*bf16", Scoring(1, 128, 50), ("sinks",)),
    # The assembler keeps to 128 registers on Hopper, at eight bytes of stack.
    *(
        replace(variant, may_spill=True)
        for variant in _variants(
            "fp8, 4 heads of 128", (32, 8, 128), "*fp8e4nv", Scoring(1), _SCALES
        )
    ),
    *_variants("fp8 as bytes, 4 heads of 128", (32, 8, 128), "*u8", Scoring(1), _SCALES),
    *_variants("int8, 8 heads of 128", (64, 8, 128), "*i8", Scoring(1), _SCALES),
    *_variants("latent, 128 heads", (128, 1, 576), "*bf16", Scoring(1), (), 512),
    Variant(
        "combine",
        _combine,
        {"sums": "*fp32", "tops": "*fp32", "totals": "*fp32", "out": "*bf16"}
        | {"kv_lens": "*i32", "row_starts": "*i32", "shares": "i32"},
        {"H": 32, "VALUE_DIM": 128, "WINDOW": 0, "BLOCK_N": 64, "WIDTH": 128},
    ),
)
