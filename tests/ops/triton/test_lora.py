"""Adapters mixed in one step, as the GPU backend launches them, against the definition."""

import torch

from pagemill.ops.cuda import CudaOps
from tests.ops.low_rank_cases import all_cases, by_reference, inputs


@all_cases
def test_every_row_gets_its_own_adapter(chosen: list[int], sizes: tuple[int, int, int]) -> None:
    y, x, *parts = inputs(chosen, sizes)
    ops = CudaOps("cpu", torch.float32, kernels=True)
    ids = torch.tensor(chosen, dtype=torch.int32)
    rows = torch.from_numpy(y), torch.from_numpy(x)
    found = ops.adapt(*rows, ops.adapters(*parts), ids)
    wanted = torch.from_numpy(by_reference(chosen, sizes))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    without = ids < 0
    assert torch.equal(found[without], wanted[without])
