"""Attention of rows that bring any number of tokens each: whole prompts, parts, single tokens.

A program takes a few tokens of one row with all query heads of one key/value head: they read the
same memory, and a tile is full where a row brings little. The grid is made of sizes that the host
knows; which row a program belongs to it finds in `row_starts` itself, so nothing waits for the
device. Tiles of the history that no token of a program sees, ahead or behind its window, are not
visited, and those that all of them see whole are not masked.

Must not know: which step this is, or how pages were filled.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.interface import Scoring
from pagemill.ops.plain.cache import LayerCache
from pagemill.ops.plain.step import DeviceStep
from pagemill.ops.triton.attention import (
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


def prefill_tiles(
    group: int, dim: int, itemsize: int, max_take: int, card: Card, latent: int = 0
) -> Tiles:
    """Sizes for rows of up to `max_take` tokens with `group` query heads on a key/value head, of
    `itemsize` bytes a number.

    Products are all the work, so tiles are as large as sums in registers allow: 128 queries by 128
    elements are 64 registers of each thread of eight warps. Hopper multiplies 64 queries at least
    by what lies in shared memory; before, that had to come through registers, and fewer tokens fit.
    float32 does not use the matrix units and keeps tiles small, and so do heads of more than 256,
    whose sums fill the registers."""
    useful = max(16, triton.next_power_of_2(max_take * group))
    if itemsize == 4:
        most = 32 if dim <= 256 else 16
        return Tiles(min(useful, most), 32 if dim <= 128 else 16, num_warps=4, num_stages=1)
    if dim > 256:
        tiles = Tiles(min(useful, 32), 32, num_warps=8, num_stages=5)
    else:
        queries = min(useful, 128 if card.wide or dim <= 128 else 64)
        tokens = 64 if dim <= 128 and (card.wide or dim <= 64) else 32
        tiles = Tiles(queries, tokens, 8 if queries * dim >= 1 << 13 else 4, num_stages=5)
    return fitting(tiles, dim * itemsize, dim * itemsize * (1 if latent else 2), card)


def paged_prefill(
    q: Tensor,
    pages: LayerCache,
    step: DeviceStep,
    scoring: Scoring,
    *,
    sinks: Tensor | None = None,
    latent: int = 0,
    singles: bool = True,
) -> Tensor:
    """q (T, H, D), the last tokens of each row's history -> (T, H, D). With `latent` the values are
    the first that many elements of the keys: -> (T, H, latent). Without `singles`, nothing is
    written for rows that bring one token."""
    tokens, heads, dim = q.shape
    kv_heads = pages.keys.shape[2]
    group = heads // kv_heads
    tiles = prefill_tiles(group, dim, q.element_size(), step.max_take, card_of(q.device), latent)
    together = min(group, tiles.queries)  # heads of a tile
    length = tiles.queries // together  # tokens of a tile
    out = q.new_empty((tokens, heads, latent or dim))
    # Row r owns the programs from row_starts[r] // length + r on: enough for every way its tokens
    # may lie, and known without looking at the rows.
    grid = (tokens // length + step.num_rows, kv_heads * triton.cdiv(group, together))
    _prefill[grid](
        q,
        *stored(pages, latent),
        step.page_table,
        step.row_starts,
        step.kv_lens,
        sinks,
        out,
        scoring.scale,
        step.num_rows,
        q.stride(0),
        q.stride(1),
        step.page_table.stride(0),
        **head_constants(q.shape, pages.keys.shape, scoring, latent),
        TOGETHER=together,
        LEAST=1 if singles else 2,
        BLOCK_M=tiles.queries,
        BLOCK_N=tiles.tokens,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


@triton.jit
def _row_of(program, row_starts, num_rows, LENGTH: tl.constexpr):
    """The last row whose programs begin at this one or before. Rows are counted many at a time: one
    load where a search would wait for several."""
    count = 0
    for base in range(0, num_rows, 256):
        row = base + tl.arange(0, 256)
        start = tl.load(row_starts + row, mask=row < num_rows, other=0)
        count += tl.sum(((start // LENGTH + row <= program) & (row < num_rows)).to(tl.int32), 0)
    return count - 1


@triton.jit(do_not_specialize=["num_rows", "table_row"])
def _prefill(
    q,
    keys,
    values,
    key_scales,
    value_scales,
    page_table,
    row_starts,
    kv_lens,
    sinks,
    out,  # (T, H, VALUE_DIM)
    scale,
    num_rows,
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
    TOGETHER: tl.constexpr,
    LEAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    LENGTH: tl.constexpr = BLOCK_M // TOGETHER
    GROUP: tl.constexpr = H // G
    # The last tokens see the longest history: they begin first, and the short ones fill the end.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    row = _row_of(program, row_starts, num_rows, LENGTH)
    row_start = tl.load(row_starts + row)
    take = tl.load(row_starts + row + 1) - row_start
    token = (program - row_start // LENGTH - row) * LENGTH  # of the row
    if token >= take or take < LEAST:
        return
    kv_len = tl.load(kv_lens + row)
    before = kv_len - take
    blocks: tl.constexpr = tl.cdiv(GROUP, TOGETHER)
    kv_head = tl.program_id(1) // blocks
    lane = tl.arange(0, BLOCK_M)
    of_row = token + lane // TOGETHER
    of_group = tl.program_id(1) % blocks * TOGETHER + lane % TOGETHER
    valid = (lane < LENGTH * TOGETHER) & (of_row < take) & (of_group < GROUP)
    head = kv_head * GROUP + of_group
    position = before + of_row

    begins = (row_start + of_row).to(tl.int64)
    queries, state = opening(
        q, begins * q_row + head * q_head, valid, sinks, head, True,
        D, FIRST, WIDTH, REST_WIDTH, BLOCK_M,
    )  # fmt: skip
    last = tl.minimum(before + token + LENGTH, kv_len)
    first = 0
    whole = tl.maximum(before + token + 1, 0) // BLOCK_N * BLOCK_N  # seen by the first token
    if WINDOW:
        first = tl.maximum(before + token - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
        whole = first
    pages = page_table + row.to(tl.int64) * table_row
    if not WINDOW:
        state = sweep(
            state, queries, position, first, whole,
            kv_len, kv_head, pages, keys, values, key_scales, value_scales,
            scale, G, D, FIRST, WIDTH, REST_WIDTH, LATENT, PAGE_SIZE, 0, SOFTCAP, BLOCK_N, False,
        )  # fmt: skip
    acc, rest_acc, _top, total = sweep(
        state, queries, position, whole, last,
        kv_len, kv_head, pages, keys, values, key_scales, value_scales,
        scale, G, D, FIRST, WIDTH, REST_WIDTH, LATENT, PAGE_SIZE, WINDOW, SOFTCAP, BLOCK_N, True,
    )  # fmt: skip
    weight = 1.0 / tl.where(total > 0, total, 1.0)  # a row without history has sums of zero
    at = (begins * H + head) * VALUE_DIM
    acc *= weight[:, None]
    rest_acc *= weight[:, None]
    store(out, at, valid, acc, rest_acc, D, FIRST, WIDTH, REST_WIDTH, LATENT)


def _variants(
    name: str,
    heads: tuple[int, int, int],
    kind: str,
    scoring: Scoring,
    given: tuple[str, ...] = (),
    latent: int = 0,
) -> Iterator[Variant]:
    """As launched for long prompts; `heads` are H, G and D."""
    num_heads, kv_heads, dim = heads
    group = num_heads // kv_heads
    types = {"keys": kind, "values": kind, "out": "*bf16", "row_starts": "*i32"}
    types["num_rows"] = "i32"
    constants = head_constants((1, num_heads, dim), (1, 16, kv_heads, dim), scoring, latent)
    for archs, card in cards_of(kind):
        tiles = prefill_tiles(group, dim, 2, 1024, card, latent)
        constants = constants | {"TOGETHER": min(group, tiles.queries), "LEAST": 2}
        yield attention_variant(name, _prefill, types, constants, tiles, given, archs)


_SCALES = ("key_scales", "value_scales")
VARIANTS = (
    *_variants("bf16, 4 heads of 128", (32, 8, 128), "*bf16", Scoring(1)),
    *_variants("bf16, 8 heads of 256, all", (16, 2, 256), "*bf16", Scoring(1, 0, 50), ("sinks",)),
    *_variants("fp8, 4 heads of 128", (32, 8, 128), "*fp8e4nv", Scoring(1), _SCALES),
    *_variants("fp8 as bytes, 4 heads of 128", (32, 8, 128), "*u8", Scoring(1), _SCALES),
    *_variants("latent, 128 heads", (128, 1, 576), "*bf16", Scoring(1), (), 512),
)
