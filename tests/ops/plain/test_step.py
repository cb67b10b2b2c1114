"""What a device is told of a step: one copy, and every array where kernels read it at once."""

import numpy as np
import pytest
import torch

from pagemill.ops.plain.sampling import Knobs
from pagemill.ops.plain.step import moved
from tests.ops.sample_cases import Knobs as Asked
from tests.ops.sample_cases import sample_rows

CPU = torch.device("cpu")


def test_arrays_arrive_as_they_were() -> None:
    arrays = [
        np.arange(5, dtype=np.int32),
        np.linspace(0, 1, 3, dtype=np.float32),
        np.empty(0, np.float32),
        np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2],
    ]
    for array, there in zip(arrays, moved(arrays, CPU), strict=True):
        assert there.numpy().dtype == array.dtype
        assert np.array_equal(there.numpy(), array)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_whatever_their_number_rows_to_sample_begin_at_multiples_of_16_bytes(count: int) -> None:
    """Triton compiles a kernel again for other addresses: a step of one row more would wait."""
    knobs = Knobs.of(sample_rows([Asked(seed=row) for row in range(count)]), 100, CPU)
    asked = (knobs.temperature, knobs.top_k, knobs.top_p, knobs.min_p, knobs.seeds, knobs.positions)
    assert [column.data_ptr() % 16 for column in asked] == [0] * len(asked)
