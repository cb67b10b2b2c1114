"""Rounding rows to eight bits, and products of what was rounded, in the interpreter."""

import numpy as np
import pytest
import torch

from pagemill.ops.plain.layouts import float8, int8
from pagemill.ops.triton.eight_bits import Tiles, product, tiles_of
from pagemill.ops.triton.round_rows import round_float8, round_int8
from pagemill.weights.formats import fp8
from tests.ops.case import normal

SMALL = Tiles(outputs=16, rows=16, splits=1, num_warps=4, num_stages=1)
LARGE = Tiles(outputs=32, rows=32, splits=1, num_warps=4, num_stages=1)


def rows(count: int, k: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(normal(np.random.default_rng(seed), count, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 77, 300])
def test_rounding_to_bytes_is_as_it_is_defined(k: int, dtype: torch.dtype) -> None:
    x = rows(7, k).to(dtype)
    x[3] = 0
    codes, scales = round_int8(x)
    expected, expected_scales = int8.round_rows(x)
    assert torch.equal(codes, expected) and codes.dtype == torch.int8
    torch.testing.assert_close(scales[:, 0], expected_scales, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("k", "block"), [(77, 77), (128, 128), (300, 128), (300, 300)])
def test_rounding_to_floats_is_as_it_is_defined(k: int, block: int) -> None:
    x = rows(7, k)
    x[3] = 0
    codes, scales = round_float8(x, block)
    expected, expected_scales = float8.round_blocks(x, block)
    assert torch.equal(codes.view(torch.uint8), expected.view(torch.uint8))
    torch.testing.assert_close(scales, expected_scales, rtol=1e-6, atol=0)


def test_rounding_rows_of_a_wider_array() -> None:
    wide = rows(5, 200)
    for x in (wide[:, 32:160], wide[:, ::2]):
        assert torch.equal(round_int8(x)[0], round_int8(x.contiguous())[0])


@pytest.mark.parametrize("tiles", [SMALL, LARGE, None])
@pytest.mark.parametrize(("num_rows", "n", "k"), [(1, 5, 32), (3, 33, 300), (40, 70, 128)])
def test_products_of_bytes(num_rows: int, n: int, k: int, tiles: Tiles | None) -> None:
    rng = np.random.default_rng(2)
    x, weight = (torch.from_numpy(rng.integers(-127, 128, (m, k), np.int8)) for m in (num_rows, n))
    x_scales, scales = torch.rand(num_rows, 1) + 0.1, torch.rand(1, n) + 0.1
    got = product(x, x_scales, weight, scales, torch.float32, tiles)
    expected = (x.double() @ weight.double().T) * x_scales * scales
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("tiles", [SMALL, LARGE, None])
@pytest.mark.parametrize("blocks", ["one", "many"])
@pytest.mark.parametrize(("num_rows", "n", "k"), [(1, 5, 256), (3, 33, 384), (40, 70, 160)])
def test_products_of_floats(
    num_rows: int, n: int, k: int, blocks: str, tiles: Tiles | None
) -> None:
    size = k if blocks == "one" else 128
    x, x_scales = float8.round_blocks(rows(num_rows, k), size)
    weight, scales = float8.round_blocks(rows(n, k, 3), size)
    got = product(x, x_scales, weight, scales.T.contiguous(), torch.float32, tiles)
    meant = [
        fp8.table()[codes.view(torch.uint8).numpy()].astype(np.float64)
        * of.numpy().repeat(size, axis=1)[:, :k]
        for codes, of in ((x, x_scales), (weight, scales))
    ]
    expected = meant[0] @ meant[1].T
    # The interpreter adds up eight-bit floats as halves of single precision.
    np.testing.assert_allclose(got.numpy(), expected, 0, 2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_inputs_that_are_cut(kind: str) -> None:
    tiles = Tiles(outputs=16, rows=16, splits=3, num_warps=4, num_stages=1)
    x, weight = rows(5, 700), rows(20, 700, 3)
    if kind == "bytes":
        (x, x_scales), (weight, scales) = round_int8(x), round_int8(weight)
    else:
        (x, x_scales), (weight, scales) = round_float8(x, 128), round_float8(weight, 128)
    scales = scales.T.contiguous()
    whole = product(x, x_scales, weight, scales, torch.float32, SMALL)
    cut = product(x, x_scales, weight, scales, torch.float32, tiles)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-4)


def test_rows_do_not_depend_on_each_other() -> None:
    (x, x_scales), (weight, scales) = round_int8(rows(5, 200)), round_int8(rows(20, 200, 3))
    scales = scales.T.contiguous()
    together = product(x, x_scales, weight, scales, torch.float32, SMALL)
    for i in range(5):
        part = slice(i, i + 1)
        alone = product(x[part], x_scales[part], weight, scales, torch.float32, SMALL)
        assert torch.equal(alone, together[part])


def test_scales_that_do_not_fit_are_named() -> None:
    x = torch.zeros(2, 300, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"scales \(2, 2\) and \(2, 2\) of 300 inputs: .* 1 or 3"):
        product(x, torch.ones(2, 2), x, torch.ones(2, 2), torch.float32)


def test_few_rows_keep_processors_busy_and_many_are_not_cut() -> None:
    few, many = tiles_of(8, 4096, 32, 132), tiles_of(4096, 4096, 32, 132)
    assert few.splits == 4 and few.rows == 16
    assert many.splits == 1 and many.rows == 128
