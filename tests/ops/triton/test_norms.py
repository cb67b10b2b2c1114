"""Norms against the reference, alone and with the sum before them."""

import numpy as np
import pytest
import torch

from pagemill.ops.interface import Float32
from pagemill.ops.reference import ReferenceOps
from pagemill.ops.triton.norms import LONGEST_ROW, layer_norm, norm_tile, rms_norm
from tests.ops.case import normal

SHAPES = [(1, 1), (3, 7), (5, 576), (2, 3, 64), (2, 5, 3, 20), (0, 8)]


def _inputs(*shape: int) -> tuple[Float32, Float32, Float32, Float32]:
    rng = np.random.default_rng(len(shape) + shape[-1])
    return normal(rng, *shape), normal(rng, *shape), normal(rng, shape[-1]), normal(rng, shape[-1])


@pytest.mark.parametrize("shape", SHAPES)
def test_norms_agree_with_the_reference(shape: tuple[int, ...]) -> None:
    x, _, weight, shift = _inputs(*shape)
    ops = ReferenceOps()
    tensors = [torch.from_numpy(array) for array in (x, weight, shift)]
    rms = rms_norm(tensors[0], tensors[1], 1e-5)
    np.testing.assert_allclose(rms, ops.rms_norm(x, weight, 1e-5), 1e-5, 1e-6)
    layer = layer_norm(*tensors, 1e-5)
    np.testing.assert_allclose(layer, ops.layer_norm(x, weight, shift, 1e-5), 1e-5, 1e-5)
    plain = layer_norm(*tensors[:2], None, 0.1)
    np.testing.assert_allclose(plain, ops.layer_norm(x, weight, None, 0.1), 1e-5, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sum_on_the_way_changes_no_bit(dtype: torch.dtype) -> None:
    x, residual, weight, _ = (torch.from_numpy(array) for array in _inputs(5, 96))
    x, residual = x.to(dtype), residual.to(dtype)
    y, total = rms_norm(x, weight, 1e-5, residual)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, rms_norm(total, weight, 1e-5))
    y, total = layer_norm(x, weight, None, 1e-5, residual)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, layer_norm(total, weight, None, 1e-5))


def test_heads_in_the_middle_of_rows_are_read_where_they_lie() -> None:
    rows = torch.from_numpy(_inputs(4, 100)[0])
    weight = torch.linspace(0, 1, 60)
    heads = rows[:, 13:73].reshape(4, 3, 20)
    assert heads.data_ptr() == rows[:, 13:].data_ptr()
    want = ReferenceOps().rms_norm(heads.numpy(), weight.numpy(), 1e-6)
    np.testing.assert_allclose(rms_norm(heads, weight, 1e-6), want, 1e-5, 1e-6)
    mirrored = heads.transpose(0, 1)  # another order of tokens and heads
    np.testing.assert_allclose(
        rms_norm(mirrored, weight[:20], 1e-6),
        ReferenceOps().rms_norm(mirrored.numpy(), weight[:20].numpy(), 1e-6),
        1e-5,
        1e-6,
    )


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    x, _, weight, _ = (torch.from_numpy(array) for array in _inputs(37, 48))
    alone = torch.cat([rms_norm(row[None], weight, 1e-5) for row in x])
    assert torch.equal(rms_norm(x, weight, 1e-5), alone)


def test_rows_that_no_program_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="row of 32769 numbers; norms take at most 32768"):
        rms_norm(torch.zeros(1, LONGEST_ROW + 1), torch.zeros(LONGEST_ROW + 1), 1e-5)


@pytest.mark.parametrize("n", [1, 64, 100, 128, 1024, 4096, 5120, LONGEST_ROW])
def test_tiles_hold_whole_rows(n: int) -> None:
    rows, block, warps = norm_tile(n)
    assert block >= n and rows * block <= max(1024, 2 * n)
    assert warps in (1, 2, 4, 8, 16) and rows * block >= 32 * warps
