"""Routing, and products by groups, against the definition."""

from typing import Any

import numpy as np
import pytest
import torch

from pagemill.ops.interface import Routing
from pagemill.ops.plain.experts import route as plain_route
from pagemill.ops.triton.grouped import combined, grouped_product, sorted_routes, tile_for
from pagemill.ops.triton.routing import route
from tests.ops.case import normal
from tests.ops.expert_cases import ROUTINGS

EXPERTS = 16


def _tensor(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(normal(rng, *shape))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", ROUTINGS)
def test_routing(name: str, biased: bool) -> None:
    rng = np.random.default_rng(len(name))
    logits = _tensor(rng, 5, EXPERTS) * 2
    logits[:, 8] = logits[:, 5]  # ties
    bias = _tensor(rng, EXPERTS) / 4 if biased else None
    chosen, weights = route(logits, ROUTINGS[name], bias)
    wanted, of_wanted = plain_route(logits, ROUTINGS[name], bias)
    np.testing.assert_array_equal(chosen, wanted)
    np.testing.assert_allclose(weights, of_wanted, 1e-5)


@pytest.mark.parametrize(
    "routing",
    [
        Routing(4, "sigmoid", groups=3, top_groups=2, group_pairs=True),
        Routing(2, groups=15, top_groups=4, group_pairs=True),
    ],
)
def test_groups_that_are_no_power_of_two(routing: Routing) -> None:
    logits = _tensor(np.random.default_rng(2), 6, 15)
    chosen, _ = route(logits, routing, None)
    np.testing.assert_array_equal(chosen, plain_route(logits, routing, None)[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_logits_that_are_no_numbers_choose_somebody() -> None:
    chosen, _ = route(torch.full((2, EXPERTS), torch.nan), Routing(3), None)
    assert ((chosen >= 0) & (chosen < EXPERTS)).all()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("tokens", "n", "k"), [(1, 5, 3), (7, 70, 130), (90, 33, 48)])
def test_products_of_sorted_tokens(tokens: int, n: int, k: int, biased: bool) -> None:
    rng = np.random.default_rng(n)
    matrices, top_k = 6, 2
    x, weights = _tensor(rng, tokens, k), _tensor(rng, matrices, n, k)
    bias = _tensor(rng, matrices, n) if biased else None
    chosen = torch.from_numpy(rng.integers(0, 4, (tokens, top_k)))  # two have nobody
    routes = sorted_routes(chosen, matrices)
    got = grouped_product(x, weights, routes, bias, gather=True)
    order = routes.order.long()
    expert = chosen.flatten()[order]
    assert (expert.diff() >= 0).all()
    want = torch.einsum("mk,mnk->mn", x[order // top_k], weights[expert])
    want = want if bias is None else want + bias[expert]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    again = grouped_product(x[order // top_k], weights, routes, bias, gather=False)
    assert torch.equal(again, got)
    share = torch.rand(tokens, top_k)
    added = combined(got, routes, share)
    by_route = torch.empty_like(want)
    by_route[order] = want
    wanted = (by_route.view(tokens, top_k, n) * share[..., None]).sum(1)
    torch.testing.assert_close(added, wanted, rtol=1e-5, atol=1e-4)


def test_no_tokens() -> None:
    routes = sorted_routes(torch.empty((0, 2), dtype=torch.int64), 3)
    y = grouped_product(torch.zeros(0, 8), torch.zeros(3, 4, 8), routes, gather=True)
    assert y.shape == (0, 4)
    assert combined(y, routes, torch.zeros(0, 2)).shape == (0, 4)


def test_tiles_grow_with_the_rows_of_a_matrix() -> None:
    rows = [tile_for(routes, 128, 2).rows for routes in (8, 512, 2048, 4096, 8192, 65536)]
    assert rows == sorted(rows) and rows[0] == 16 and rows[-1] == 128
    for size in (2, 4):
        for routes in (1, 4096, 65536):
            tile: Any = tile_for(routes, 128, size)
            held = (tile.rows + tile.columns) * tile.depth * size * tile.stages
            assert held <= 163 << 10  # what a block of sm_80 may ask for
