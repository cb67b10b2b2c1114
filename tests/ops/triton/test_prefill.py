"""Attention of rows that bring any number of tokens, against the reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pagemill.ops.interface import Scoring
from pagemill.ops.triton.card import LARGE, SMALL
from pagemill.ops.triton.decode import paged_decode
from pagemill.ops.triton.prefill import paged_prefill, prefill_tiles
from tests.ops.triton.histories import TOLERANCE, Shape, assert_close, history, with_padding

# Whole prompts, parts of prompts and single tokens together; parts that end inside a tile.
LENS, TAKES = [0, 130, 0, 60], [33, 1, 1, 16]


@pytest.mark.parametrize(
    "shape",
    [
        Shape(1, 1, 8, 4),
        Shape(9, 3, 64, 16),
        Shape(8, 2, 80, 32),
        Shape(6, 2, 96, 48),
        Shape(4, 4, 128, 64),
        Shape(7, 1, 32, 1),
        Shape(2, 1, 256),
        Shape(1, 1, 576),
        Shape(33, 1, 16, 32),  # more heads than a tile
    ],
    ids=str,
)
def test_heads_of_every_shape(shape: Shape) -> None:
    made = history(shape, LENS, TAKES)
    got = paged_prefill(made.q, made.cache, made.on_device(), Scoring(0.2))
    assert_close(got, made.expected(Scoring(0.2)), TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    "scoring",
    [
        Scoring(0.3, window=1),
        Scoring(0.3, window=40),
        Scoring(0.4, softcap=2.0),
        Scoring(0.4, 33, 5.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("sinks", [False, True], ids=["", "sinks"])
def test_windows_caps_and_sinks(scoring: Scoring, sinks: bool) -> None:
    made = history(Shape(6, 2, 24), [0, 40, 90], [70, 1, 9], sinks=sinks)
    got = paged_prefill(made.q, made.cache, made.on_device(), scoring, sinks=made.sinks)
    assert_close(got, made.expected(scoring), TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("stored", [None, torch.float8_e4m3fn, torch.int8], ids=str)
def test_types_of_queries_and_caches(dtype: torch.dtype, stored: torch.dtype | None) -> None:
    made = history(Shape(6, 2, 80), [3, 90], [60, 7], dtype, stored)
    got = paged_prefill(made.q, made.cache, made.on_device(), Scoring(0.2))
    assert got.dtype == dtype
    assert_close(got, made.expected(Scoring(0.2)), TOLERANCE[dtype])


@pytest.mark.parametrize("heads,latent,rope", [(1, 16, 4), (5, 40, 8), (33, 512, 64)])
def test_values_that_are_a_part_of_the_keys(heads: int, latent: int, rope: int) -> None:
    made = history(Shape(heads, 1, latent + rope), [0, 20], [19, 2])
    got = paged_prefill(made.q, made.cache, made.on_device(), Scoring(0.1), latent=latent)
    want = replace(made, cache=replace(made.cache, values=made.cache.keys)).expected(Scoring(0.1))
    assert_close(got, want[..., :latent], TOLERANCE[torch.float32])


def test_rows_without_history_or_tokens() -> None:
    made = history(Shape(4, 2, 32), [5, 9, 20], [30, 0, 1], sinks=True)
    padded = replace(made, step=with_padding(made.step), q=torch.cat([made.q, made.q[:1]]))
    got = [
        paged_prefill(one.q, one.cache, one.on_device(), Scoring(0.2), sinks=made.sinks)
        for one in (made, padded)
    ]
    assert_close(got[0], made.expected(Scoring(0.2)), TOLERANCE[torch.float32])
    torch.testing.assert_close(got[1][:31], got[0], rtol=0, atol=0)
    assert not got[1][31].any()


def test_more_rows_than_are_looked_at_together() -> None:
    takes = [7 if row in (3, 255, 256, 269) else 0 for row in range(270)]
    made = history(Shape(1, 1, 16), [row % 5 for row in range(270)], takes)
    got = paged_prefill(made.q, made.cache, made.on_device(), Scoring(0.2))
    assert_close(got, made.expected(Scoring(0.2)), TOLERANCE[torch.float32])


def test_single_tokens_as_decode_has_them() -> None:
    made = history(Shape(8, 2, 64), [5, 100], [1, 1])
    step = made.on_device()
    together = paged_prefill(made.q, made.cache, step, Scoring(0.2))
    torch.testing.assert_close(together, paged_decode(made.q, made.cache, step, Scoring(0.2)))


@pytest.mark.parametrize("shares", [1, 2])
def test_single_tokens_among_others_left_to_decode(shares: int) -> None:
    made = history(Shape(6, 2, 32), LENS, TAKES, sinks=True)
    step, scoring, sinks = made.on_device(), Scoring(0.2), made.sinks
    out = paged_prefill(made.q, made.cache, step, scoring, sinks=sinks, singles=False)
    paged_decode(made.q, made.cache, step, scoring, sinks=sinks, into=out, shares=shares)
    assert_close(out, made.expected(scoring), TOLERANCE[torch.float32])


def test_random_rows() -> None:
    rng = np.random.default_rng(11)
    for _ in range(4):
        group, kv_heads = int(rng.integers(1, 9)), int(rng.integers(1, 4))
        page_size = int(rng.choice([16, 32, 64]))
        shape = Shape(group * kv_heads, kv_heads, int(rng.integers(4, 17)) * 8, page_size)
        rows = int(rng.integers(1, 6))
        lens = [int(n) for n in rng.integers(0, 120, rows)]
        takes = [int(n) for n in rng.integers(1, 40, rows)]
        scoring = Scoring(0.2, window=int(rng.choice([0, 40])))
        made = history(shape, lens, takes, torch.bfloat16)
        got = paged_prefill(made.q, made.cache, made.on_device(), scoring)
        assert_close(got, made.expected(scoring), TOLERANCE[torch.bfloat16])


def test_tiles_are_of_sizes_that_products_take() -> None:
    for group in (1, 4, 7, 16, 71, 128):
        for dim in (8, 64, 80, 128, 256, 576):
            for itemsize, max_take in ((2, 1), (2, 4096), (4, 100)):
                for card in (SMALL, LARGE):
                    tiles = prefill_tiles(group, dim, itemsize, max_take, card)
                    assert 16 <= tiles.queries <= 128 and 16 <= tiles.tokens <= 64
                    assert not tiles.queries & (tiles.queries - 1)
