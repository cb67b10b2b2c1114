"""Adapters mixed in one step against one product a row."""

import numpy as np
import pytest
import torch

from pagemill.ops.triton.lora import adapter_routes, expand, shrink
from tests.ops.case import normal

IDS = {
    "mixed": [2, -1, 0, 0, 2, -1, 4],
    "none": [-1, -1],
    "one": [3],
    "all of one": [1] * 19,
}


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize(("n", "k", "rank"), [(5, 7, 1), (70, 600, 8), (33, 1030, 20)])
def test_every_row_gets_its_own_adapter(name: str, n: int, k: int, rank: int) -> None:
    rng = np.random.default_rng(n)
    ids, adapters = torch.tensor(IDS[name], dtype=torch.int32), 5
    sizes = [(len(ids), k), (adapters, rank, k), (adapters, n, rank), (len(ids), n), (adapters,)]
    x, down, up, y, scales = (torch.from_numpy(normal(rng, *size)) for size in sizes)
    want = y.clone()
    for row, adapter in enumerate(IDS[name]):
        if adapter >= 0:
            want[row] += scales[adapter] * (up[adapter] @ (down[adapter] @ x[row]))
    routes = adapter_routes(ids, adapters)
    expand(y, shrink(x, down, routes), up, scales, routes)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-3)
    without = ids < 0
    assert torch.equal(y[without], want[without])


def test_no_rows() -> None:
    routes = adapter_routes(torch.empty(0, dtype=torch.int32), 2)
    inner = shrink(torch.zeros(0, 8), torch.zeros(2, 4, 8), routes)
    expand(torch.zeros(0, 6), inner, torch.zeros(2, 6, 4), torch.ones(2), routes)
