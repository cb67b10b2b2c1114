"""The definition of low-rank adapters: what it adds is what the whole corrected matrix would."""

import numpy as np

from pagemill.ops.low_rank import LowRank
from pagemill.ops.reference import ReferenceOps
from tests.ops.low_rank_cases import all_cases, by_reference, inputs


@all_cases
def test_rows_get_the_product_of_the_corrected_matrix(
    chosen: list[int], sizes: tuple[int, int, int]
) -> None:
    y, x, down, up, scales = (part.astype(np.float64) for part in inputs(chosen, sizes))
    found = by_reference(chosen, sizes)
    for row, adapter in enumerate(chosen):
        wanted = y[row]
        if adapter >= 0:
            wanted = wanted + scales[adapter] * (up[adapter] @ down[adapter]) @ x[row]
        np.testing.assert_allclose(found[row], wanted, 1e-4, 1e-3)
    assert found.shape == y.shape and isinstance(ReferenceOps(), LowRank)
