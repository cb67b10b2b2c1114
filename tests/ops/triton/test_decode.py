"""Attention of one token a row, against the reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pagemill.ops.interface import Scoring
from pagemill.ops.triton.card import LARGE, SMALL
from pagemill.ops.triton.decode import decode_tiles, num_shares, paged_decode
from tests.ops.triton.histories import TOLERANCE, Shape, assert_close, history, with_padding

RAGGED = [0, 16, 63, 200]
SHAPES = [
    Shape(1, 1, 8, 4),
    Shape(9, 3, 64, 16),
    Shape(8, 2, 80, 32),
    Shape(6, 2, 96, 48),
    Shape(4, 4, 128, 64),
    Shape(17, 1, 32, 1),
    Shape(2, 1, 256),
    Shape(1, 1, 576),
    Shape(70, 1, 16, 32),  # more heads than a tile
]
SCORINGS = [
    Scoring(0.2),
    Scoring(0.3, window=1),
    Scoring(0.3, window=70),
    Scoring(0.4, softcap=2.0),
    Scoring(0.4, 90, 5.0),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("shares", [1, 3])
def test_heads_of_every_shape(shape: Shape, shares: int) -> None:
    made = history(shape, RAGGED, [1] * len(RAGGED))
    got = paged_decode(made.q, made.cache, made.on_device(), Scoring(0.2), shares=shares)
    assert_close(got, made.expected(Scoring(0.2)), TOLERANCE[torch.float32])


@pytest.mark.parametrize("scoring", SCORINGS, ids=str)
@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("sinks", [False, True], ids=["", "sinks"])
def test_windows_caps_and_sinks(scoring: Scoring, shares: int, sinks: bool) -> None:
    made = history(Shape(6, 2, 24), [0, 40, 333], [1, 1, 1], sinks=sinks)
    step = made.on_device()
    got = paged_decode(made.q, made.cache, step, scoring, sinks=made.sinks, shares=shares)
    assert_close(got, made.expected(scoring), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("stored", [None, torch.float8_e4m3fn, torch.int8], ids=str)
def test_types_of_queries_and_caches(dtype: torch.dtype, stored: torch.dtype | None) -> None:
    made = history(Shape(6, 2, 80), [3, 150], [1, 1], dtype, stored)
    got = paged_decode(made.q, made.cache, made.on_device(), Scoring(0.2), shares=2)
    assert got.dtype == dtype
    assert_close(got, made.expected(Scoring(0.2)), TOLERANCE[dtype])


def test_float8_on_cards_without_it() -> None:
    """Its codes are read as bytes there."""
    made = history(Shape(4, 2, 32), [3, 50], [1, 1], torch.float32, torch.float8_e4m3fn)
    codes = made.cache
    as_bytes = replace(
        codes, keys=codes.keys.view(torch.uint8), values=codes.values.view(torch.uint8)
    )
    got = paged_decode(made.q, as_bytes, made.on_device(), Scoring(0.2))
    assert_close(got, made.expected(Scoring(0.2)), TOLERANCE[torch.float32])


@pytest.mark.parametrize("stored", [None, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("heads,latent,rope", [(1, 16, 4), (5, 40, 8), (40, 512, 64)])
def test_values_that_are_a_part_of_the_keys(
    heads: int, latent: int, rope: int, stored: torch.dtype | None
) -> None:
    made = history(Shape(heads, 1, latent + rope), [0, 70], [1, 1], cache_dtype=stored)
    cache = made.cache
    got = paged_decode(made.q, cache, made.on_device(), Scoring(0.1), latent=latent, shares=2)
    of_keys = replace(cache, values=cache.keys, value_scales=cache.key_scales)
    want = replace(made, cache=of_keys).expected(Scoring(0.1))
    assert_close(got, want[..., :latent], TOLERANCE[torch.float32])


@pytest.mark.parametrize("shares", [1, 3])
def test_rows_without_history_are_zero_and_touch_nobody(shares: int) -> None:
    made = history(Shape(4, 2, 32), [5, 80], [1, 1], sinks=True)
    padded = replace(made, step=with_padding(made.step), q=torch.cat([made.q, made.q[:1]]))
    run = [
        paged_decode(
            one.q, one.cache, one.on_device(), Scoring(0.2), sinks=made.sinks, shares=shares
        )
        for one in (made, padded)
    ]
    torch.testing.assert_close(run[1][:2], run[0], rtol=0, atol=0)
    assert not run[1][2].any()


def test_random_rows() -> None:
    rng = np.random.default_rng(7)
    for _ in range(6):
        group, kv_heads = int(rng.integers(1, 9)), int(rng.integers(1, 4))
        page_size = int(rng.choice([16, 32, 64]))
        shape = Shape(group * kv_heads, kv_heads, int(rng.integers(4, 17)) * 8, page_size)
        lens = [int(n) for n in rng.integers(0, 300, rng.integers(1, 6))]
        scoring = Scoring(0.2, window=int(rng.choice([0, 40])))
        made = history(shape, lens, [1] * len(lens))
        shares = int(rng.choice([0, 1, 2, 8]))
        got = paged_decode(made.q, made.cache, made.on_device(), scoring, shares=shares)
        assert_close(got, made.expected(scoring), TOLERANCE[torch.float32])


def test_how_many_shares() -> None:
    """One where rows alone fill the card; no more than there are tiles for."""
    assert num_shares(64 * 8, 4096, 64, 132) == 3
    assert num_shares(4096, 1 << 20, 64, 132) == 1
    assert num_shares(8, 1 << 20, 64, 132) == 64
    assert num_shares(8, 1000, 64, 132) == 7
    assert num_shares(8, 1, 64, 132) == 1
    assert num_shares(0, 0, 64, 132) == 1


def test_tiles_are_of_sizes_that_products_take() -> None:
    for group in (1, 4, 7, 16, 71, 128):
        for dim in (8, 64, 80, 128, 256, 576):
            for itemsize in (1, 2, 4):
                for card in (SMALL, LARGE):
                    tiles = decode_tiles(group, dim, itemsize, card)
                    assert 16 <= tiles.queries <= 64 and 16 <= tiles.tokens <= 64
                    assert not tiles.queries & (tiles.queries - 1)
