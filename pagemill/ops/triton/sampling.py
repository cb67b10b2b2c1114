"""One id for each row of logits, to the letter of `ops/reference.py`, without sorting a vocabulary.

Four launches. Two look at tiles of rows, all at once: the largest logit of each, then what each
weighs (how many p, and how much of them, are above a few cuts). That tells, for nearly every row,
that the choice lies among few ids, which the third launch lists. The last has one program a row:
the k-th largest logit and the p at which top_p ends are found bit by bit in the order of floats,
which is that of their bits, on numbers that stay in registers. A row whose choice is not among few
is read from memory for every bit.

Sums are of float64, as the reference's are. Torch would sort 128k logits of each row, and write
them, their order, probabilities and sums to memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.triton.variants import Variant

_TILE = 2048  # logits of a program that looks at tiles, and most ids of a list
_CUTS: tl.constexpr = tl.constexpr(3)  # p of 2^-18, 2^-12, 2^-6; the last, 0, is not among them
_NO_ID: tl.constexpr = tl.constexpr(0x7FFFFFFF)


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    draws: bool = True,
) -> Tensor:
    """Edited logits (S, V), float knobs (S,) float32, top_k (S,) and positions (S,) int32, top_k
    less than V, seeds (2, S) int32, low words and high words -> ids (S,) int32; -1 where no logit
    is finite. `draws` is False if every temperature is 0. Waits for nothing."""
    num_rows, vocab = logits.shape
    logits = logits.contiguous()
    tile = tile_of(vocab)
    tiles = triton.cdiv(vocab, tile)
    new = logits.new_empty
    ids = new(num_rows, dtype=torch.int32)
    tops, top_ids = (new((num_rows, tiles), dtype=t) for t in (torch.float32, torch.int32))
    if not num_rows:
        return ids
    sizes = {"TILE": tile, "TILES": triton.next_power_of_2(tiles)}
    grid = (num_rows, tiles)
    _tops_kernel[grid](logits, tops, top_ids, vocab, TILE=tile, num_warps=4)
    counts, masses, listed = ids, ids, ids  # nobody looks at them where nobody draws
    if draws:
        shape = (num_rows, _CUTS.value + 1, tiles)
        counts, masses = new(shape, dtype=torch.int32), new(shape, dtype=torch.float64)
        listed = new((num_rows, tile), dtype=torch.int32)
        _masses_kernel[grid](
            logits, temperature, tops, counts, masses, vocab, tiles, **sizes, num_warps=4
        )
        _list_kernel[grid](
            logits, temperature, top_k, top_p, min_p, tops, counts, masses, listed, vocab, tiles,
            **sizes, num_warps=4,
        )  # fmt: skip
    _choose_kernel[(num_rows,)](
        logits, temperature, top_k, top_p, min_p, seeds, positions,
        tops, top_ids, counts, masses, listed, ids, num_rows, vocab, tiles,
        **sizes, DRAWS=draws, num_warps=8,
    )  # fmt: skip
    return ids


def tile_of(vocab: int) -> int:
    """Logits of a tile."""
    return min(_TILE, int(triton.next_power_of_2(vocab)))


@triton.jit
def _tops_kernel(logits, tops, top_ids, vocab, TILE: tl.constexpr):
    """Each tile's largest logit, and the lowest id that has it."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    id = tile * TILE + tl.arange(0, TILE)
    x = _numbers(logits + row * vocab + id, id < vocab)
    top = tl.max(x, 0)
    at = row * tl.num_programs(1) + tile
    tl.store(tops + at, top)
    tl.store(top_ids + at, tl.min(tl.where(x == top, id, _NO_ID), 0))


@triton.jit(do_not_specialize=["tiles"])
def _masses_kernel(
    logits, temperature, tops, counts, masses, vocab, tiles,
    TILE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """How many p of each tile are above each cut, and their sum."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heat, top = _heat_and_top(temperature, tops, row, tiles, TILES)
    if heat > 0:
        id = tile * TILE + tl.arange(0, TILE)
        _, p = _probabilities(logits + row * vocab, id, id < vocab, heat, top)
        for cut in tl.static_range(_CUTS + 1):
            above = (p >= _cut(cut)) & (id < vocab)
            at = (row * (_CUTS + 1) + cut) * tiles + tile
            tl.store(counts + at, tl.sum(above.to(tl.int32), 0))
            tl.store(masses + at, tl.sum(tl.where(above, p, 0.0).to(tl.float64), 0))


@triton.jit(do_not_specialize=["tiles"])
def _list_kernel(
    logits, temperature, top_k, top_p, min_p, tops, counts, masses, listed, vocab, tiles,
    TILE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The ids among which the choice lies, in order, where they are few."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heat, top = _heat_and_top(temperature, tops, row, tiles, TILES)
    if heat > 0:
        cut, _ = _few(row, top_k, top_p, min_p, counts, masses, tiles, TILE, TILES)
        if cut < _CUTS:
            id = tile * TILE + tl.arange(0, TILE)
            _x, p = _probabilities(logits + row * vocab, id, id < vocab, heat, top)
            above = (p >= _cut(cut)) & (id < vocab)
            t = tl.arange(0, TILES)
            before = counts + (row * (_CUTS + 1) + cut) * tiles + t
            first = tl.sum(tl.load(before, t < tile, 0), 0)
            at = first + tl.cumsum(above.to(tl.int32), 0) - 1
            tl.store(listed + row * TILE + at, id, above)


@triton.jit(do_not_specialize=["num_rows", "tiles"])
def _choose_kernel(
    logits, temperature, top_k, top_p, min_p, seeds, positions,
    tops, top_ids, counts, masses, listed, ids, num_rows, vocab, tiles,
    TILE: tl.constexpr, TILES: tl.constexpr, DRAWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    t = tl.arange(0, TILES)
    of_tiles = tl.load(tops + row * tiles + t, t < tiles, float("-inf"))
    top = tl.max(of_tiles, 0)
    firsts = tl.load(top_ids + row * tiles + t, t < tiles, _NO_ID)
    chosen = tl.min(tl.where(of_tiles == top, firsts, _NO_ID), 0)
    finite = (top > float("-inf")) & (top < float("inf"))
    chosen = tl.where(finite, chosen, -1)
    if DRAWS:
        heat, top = _heat_and_top(temperature, tops, row, tiles, TILES)
        if heat > 0:
            word, _1, _2, _3 = tl.philox_impl(
                tl.load(positions + row).to(tl.uint32, bitcast=True),
                0, 0, 0,
                tl.load(seeds + row).to(tl.uint32, bitcast=True),
                tl.load(seeds + num_rows + row).to(tl.uint32, bitcast=True),
            )  # fmt: skip
            noise = (word >> 8).to(tl.float64) * 5.9604644775390625e-08  # 2^-24
            k, share, least = tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row)
            if (k > 0) | (share < 1) | (least > 0):
                cut, n = _few(row, top_k, top_p, min_p, counts, masses, tiles, TILE, TILES)
                chosen = _drawn(
                    logits + row * vocab, listed + row * TILE, tl.where(cut < _CUTS, n, vocab),
                    cut == _CUTS, heat, top, noise, k, share, least, TILE,
                )  # fmt: skip
            else:
                first = masses + (row * (_CUTS + 1) + _CUTS) * tiles + t
                mass = tl.load(first, t < tiles, 0.0)
                chosen = _drawn_of_all(logits + row * vocab, mass, heat, top, noise, vocab, TILE)
            chosen = tl.minimum(chosen, vocab - 1)
    tl.store(ids + row, chosen)


@triton.jit
def _drawn_of_all(logits, mass, heat, top, noise, vocab, TILE: tl.constexpr):
    """The id of a row that drops nothing: only the tile that has it is read."""
    aim, sums = noise * tl.sum(mass, 0), tl.cumsum(mass, 0)
    before = tl.where(sums <= aim, mass, 0.0)
    id = tl.sum((sums <= aim).to(tl.int32), 0) * TILE + tl.arange(0, TILE)
    _, p = _probabilities(logits, id, id < vocab, heat, top)
    sums = tl.sum(before, 0) + tl.cumsum(p.to(tl.float64), 0)
    return tl.min(tl.where((sums > aim) & (p > 0), id, _NO_ID), 0)


@triton.jit
def _drawn(
    logits, listed, n, whole, heat, top, noise, top_k, top_p, min_p, CHUNK: tl.constexpr
):  # fmt: skip
    """The id of one row: of the first n ids (`whole`), or of n ids in a list."""
    id, x, p = _chunk(logits, listed, 0, n, whole, heat, top, CHUNK)
    last_x, last_x_id = float("-inf"), _NO_ID  # kept are larger x, and equal ones to this id
    if (top_k > 0) & (top_k < n):
        last_x, last_x_id = _end_of_largest(
            id, x, logits, listed, n, whole, heat, top, top_k, CHUNK
        )  # fmt: skip
    last_p, last_p_id = 0.0, _NO_ID
    if top_p < 1:
        last_p, last_p_id = _end_of_nucleus(
            id, x, p, logits, listed, n, whole, heat, top, last_x, last_x_id, top_p, CHUNK
        )  # fmt: skip
    least = tl.where(min_p > 0, min_p, 0.0)
    total = tl.sum(_kept(id, x, p, last_x, last_x_id, last_p, last_p_id, least).to(tl.float64), 0)
    for start in range(CHUNK, n, CHUNK):
        id, x, p = _chunk(logits, listed, start, n, whole, heat, top, CHUNK)
        kept = _kept(id, x, p, last_x, last_x_id, last_p, last_p_id, least)
        total += tl.sum(kept.to(tl.float64), 0)
    aim, sum_before = noise * total, 0.0 * total
    chosen, start = _NO_ID, 0
    while (start < n) & (chosen == _NO_ID):
        id, x, p = _chunk(logits, listed, start, n, whole, heat, top, CHUNK)
        kept = _kept(id, x, p, last_x, last_x_id, last_p, last_p_id, least).to(tl.float64)
        sums = sum_before + tl.cumsum(kept, 0)
        chosen = tl.min(tl.where((sums > aim) & (kept > 0), id, _NO_ID), 0)
        sum_before += tl.sum(kept, 0)
        start += CHUNK
    return chosen


@triton.jit
def _end_of_largest(id, x, logits, listed, n, whole, heat, top, top_k, CHUNK: tl.constexpr):
    """The top_k-th largest x, and the last id that is kept of those who have it."""
    keys = _ordered(x)
    last = tl.full((), -0x80000000, tl.int32)
    for bit in range(32):
        key = last ^ (tl.full((), 1, tl.int32) << (31 - bit))  # the sign first: it is set if less
        count = tl.sum(((keys >= key) & (id < _NO_ID)).to(tl.int32), 0)
        for start in range(CHUNK, n, CHUNK):
            other, y, _ = _chunk(logits, listed, start, n, whole, heat, top, CHUNK)
            count += tl.sum(((_ordered(y) >= key) & (other < _NO_ID)).to(tl.int32), 0)
        last = tl.where(count >= top_k, key, last)
    more = tl.sum(((keys > last) & (id < _NO_ID)).to(tl.int32), 0)
    value = tl.max(tl.where(keys <= last, x, float("-inf")), 0)
    for start in range(CHUNK, n, CHUNK):
        other, y, _ = _chunk(logits, listed, start, n, whole, heat, top, CHUNK)
        more += tl.sum(((_ordered(y) > last) & (other < _NO_ID)).to(tl.int32), 0)
        value = tl.maximum(value, tl.max(tl.where(_ordered(y) <= last, y, float("-inf")), 0))
    room, seen, last_id, start = top_k - more, 0, _NO_ID, 0
    while (start < n) & (last_id == _NO_ID):
        other, y, _ = _chunk(logits, listed, start, n, whole, heat, top, CHUNK)
        equal = ((y == value) & (other < _NO_ID)).to(tl.int32)
        ends = (equal > 0) & (seen + tl.cumsum(equal, 0) == room)
        last_id = tl.min(tl.where(ends, other, _NO_ID), 0)
        seen += tl.sum(equal, 0)
        start += CHUNK
    return value, last_id


@triton.jit
def _end_of_nucleus(
    id, x, p, logits, listed, n, whole, heat, top, last_x, last_x_id, top_p, CHUNK: tl.constexpr
):  # fmt: skip
    """The smallest p among the most likely whose sum reaches top_p of all, and the last id that is
    kept of those who have it."""
    kept = _kept(id, x, p, last_x, last_x_id, 0.0, _NO_ID, 0.0)
    total = _mass(kept, 0, logits, listed, n, whole, heat, top, last_x, last_x_id, CHUNK)
    aim = top_p.to(tl.float64) * total
    bits = tl.zeros((), tl.int32)
    for bit in range(30):  # of 1.0, the largest p, bit 29 is the highest
        key = bits | (1 << (29 - bit))
        mass = _mass(kept, key, logits, listed, n, whole, heat, top, last_x, last_x_id, CHUNK)
        bits = tl.where((mass >= aim) & (mass > 0), key, bits)
    value = bits.to(tl.float32, bitcast=True)
    more = _mass(kept, bits + 1, logits, listed, n, whole, heat, top, last_x, last_x_id, CHUNK)
    room = tl.maximum(tl.ceil((aim - more) / value.to(tl.float64)), 1.0)
    seen, last_id, start = 0.0 * room, _NO_ID, 0
    while (start < n) & (last_id == _NO_ID):
        other, y, q = _chunk(logits, listed, start, n, whole, heat, top, CHUNK)
        q = _kept(other, y, q, last_x, last_x_id, 0.0, _NO_ID, 0.0)
        equal = ((q == value) & (other < _NO_ID)).to(tl.float64)
        ends = (equal > 0) & (seen + tl.cumsum(equal, 0) == room)
        last_id = tl.min(tl.where(ends, other, _NO_ID), 0)
        seen += tl.sum(equal, 0)
        start += CHUNK
    return value, last_id


@triton.jit
def _mass(
    kept, key, logits, listed, n, whole, heat, top, last_x, last_x_id, CHUNK: tl.constexpr
):  # fmt: skip
    """The sum of kept p whose bits are not less than `key`."""
    large = kept.to(tl.int32, bitcast=True) >= key
    mass = tl.sum(tl.where(large, kept, 0.0).to(tl.float64), 0)
    for start in range(CHUNK, n, CHUNK):
        id, x, p = _chunk(logits, listed, start, n, whole, heat, top, CHUNK)
        p = _kept(id, x, p, last_x, last_x_id, 0.0, _NO_ID, 0.0)
        large = p.to(tl.int32, bitcast=True) >= key
        mass += tl.sum(tl.where(large, p, 0.0).to(tl.float64), 0)
    return mass


@triton.jit
def _kept(id, x, p, last_x, last_x_id, last_p, last_p_id, least):
    """p, and 0 for what was dropped."""
    by_x = (x > last_x) | ((x == last_x) & (id <= last_x_id))
    by_p = (p > last_p) | ((p == last_p) & (id <= last_p_id))
    return tl.where(by_x & by_p & (p >= least) & (id < _NO_ID), p, 0.0)


@triton.jit
def _chunk(logits, listed, start, n, whole, heat, top, CHUNK: tl.constexpr):
    """Ids, logits over temperature, and p; _NO_ID, -inf and 0 beyond the n-th."""
    at = start + tl.arange(0, CHUNK)
    inside = at < n
    id = at
    if not whole:
        id = tl.load(listed + at, inside, 0)
    x, p = _probabilities(logits, id, inside, heat, top)
    return tl.where(inside, id, _NO_ID), x, p


@triton.jit
def _probabilities(logits, id, inside, heat, top):
    """Logits over temperature, and exp of what they are above the largest."""
    x = tl.div_rn(_numbers(logits + id, inside), tl.zeros_like(id).to(tl.float32) + heat)
    return x, tl.exp(x - top)


@triton.jit
def _numbers(logits, inside):
    """Float32 logits; what is not a number is -inf, and so is what is outside."""
    x = tl.load(logits, inside, float("-inf")).to(tl.float32)
    return tl.where(x == x, x, float("-inf"))


@triton.jit
def _heat_and_top(temperature, tops, row, tiles, TILES: tl.constexpr):
    """A row's temperature, or 0 where it does not draw, and its largest logit over temperature."""
    t = tl.arange(0, TILES)
    top = tl.max(tl.load(tops + row * tiles + t, t < tiles, float("-inf")), 0)
    heat = tl.load(temperature + row)
    heat = tl.where((top > float("-inf")) & (top < float("inf")), heat, 0.0)
    return heat, tl.div_rn(top, tl.where(heat > 0, heat, 1.0))


@triton.jit
def _cut(cut):
    """The p of a cut: a power of two, made of its exponent's bits."""
    exponent = tl.zeros((), tl.int32) + (127 - 6 * (_CUTS - cut))
    return tl.where(cut < _CUTS, (exponent << 23).to(tl.float32, bitcast=True), 0.0)


@triton.jit
def _ordered(x):
    """Float32 as int32 of the same order. Both zeros are one number."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _few(
    row, top_k, top_p, min_p, counts, masses, tiles, TILE: tl.constexpr, TILES: tl.constexpr
):  # fmt: skip
    """The highest cut above which the row's choice lies for certain, if a list holds what is above
    it, and how many are above; else _CUTS."""
    k, share, least = tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row)
    t = tl.arange(0, TILES)
    first = row * (_CUTS + 1) * tiles + t
    total = tl.sum(tl.load(masses + first + _CUTS * tiles, t < tiles, 0.0), 0)
    chosen, n = _CUTS, 0
    for cut in tl.static_range(_CUTS):
        count = tl.sum(tl.load(counts + first + cut * tiles, t < tiles, 0), 0)
        mass = tl.sum(tl.load(masses + first + cut * tiles, t < tiles, 0.0), 0)
        by_mass = (share < 1) & (mass > share.to(tl.float64) * total)
        enough = tl.where(k > 0, count >= k, by_mass | ((share >= 1) & (least >= _cut(cut))))
        good = enough & (count <= TILE)
        chosen, n = tl.where(good, cut, chosen), tl.where(good, count, n)
    return chosen, n


def _variants(vocab: int) -> tuple[Variant, ...]:
    tile = tile_of(vocab)
    sizes = {"TILE": tile, "TILES": triton.next_power_of_2(triton.cdiv(vocab, tile))}
    types = dict.fromkeys(("logits", "temperature", "top_p", "min_p", "tops"), "*fp32")
    types |= dict.fromkeys(("top_k", "seeds", "positions", "top_ids"), "*i32")
    types |= dict.fromkeys(("counts", "listed", "ids"), "*i32") | {"masses": "*fp64"}
    types |= {"vocab": "i32:16", "tiles": "i32", "num_rows": "i32"}
    kernels = [
        ("tops", _tops_kernel, {"TILE": tile}, 4),
        ("masses", _masses_kernel, sizes, 4),
        ("list", _list_kernel, sizes, 4),
        ("choice", _choose_kernel, sizes | {"DRAWS": True}, 8),
        ("largest", _choose_kernel, sizes | {"DRAWS": False}, 8),
    ]
    return tuple(
        Variant(
            f"{name} of {vocab}",
            kernel,
            {name: types[name] for name in kernel.arg_names if name in types},
            constants,
            num_warps=warps,
        )
        for name, kernel, constants, warps in kernels
    )


VARIANTS = _variants(128256)
