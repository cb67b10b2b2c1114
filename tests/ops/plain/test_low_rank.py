"""Low-rank adapters on torch's own calls, against the definition."""

import pytest
import torch

from pagemill.ops.cuda import CudaOps
from pagemill.ops.low_rank import LowRank
from pagemill.ops.plain.ops import PlainOps
from tests.ops.low_rank_cases import all_cases, by_reference, inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [PlainOps, CudaOps])
@all_cases
def test_what_is_added_is_what_the_definition_adds(
    chosen: list[int], sizes: tuple[int, int, int], kind: type[PlainOps], dtype: torch.dtype
) -> None:
    y, x, *parts = inputs(chosen, sizes)
    ops = kind("cpu", dtype)
    assert isinstance(ops, LowRank)
    of_rows = (torch.from_numpy(part).to(dtype) for part in (y, x))
    ids = torch.tensor(chosen, dtype=torch.int32)
    found = ops.adapt(*of_rows, ops.adapters(*parts), ids)
    wanted = torch.from_numpy(by_reference(chosen, sizes))
    assert found.dtype == dtype
    close = (1e-5 if dtype == torch.float32 else 0.02) * wanted.abs().amax() if len(y) else 0
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=float(close))
