"""Products with codes under scales, in the interpreter, against weights in double precision."""

import numpy as np
import pytest
import torch

from pagemill.ops.plain.layouts.codings import CODINGS
from pagemill.ops.triton.coded import Tiles, product, tiles_of
from pagemill.weights import formats
from tests.ops.case import normal
from tests.ops.plain.test_layouts import in_groups, made, meaning, some_rows

SMALL = Tiles(outputs=16, rows=16, splits=1, num_warps=4, num_stages=1)
LARGE = Tiles(outputs=32, rows=32, splits=1, num_warps=4, num_stages=1)


def compared(
    name: str, raw: np.ndarray, num_rows: int, tiles: Tiles | None, dtype: torch.dtype
) -> None:
    weight = meaning((name, raw)).astype(np.float64)
    x = torch.from_numpy(normal(np.random.default_rng(4), num_rows, weight.shape[1])).to(dtype)
    got = product(x, made((name, raw)), tiles)
    assert got.dtype == dtype and got.shape == (num_rows, len(weight))
    expected = x.double().numpy() @ weight.T
    # Weights of many rows, and tables that no small numbers make, are rounded to the type of x.
    error = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
    np.testing.assert_allclose(got.double().numpy(), expected, 0, error * np.abs(expected).max())


@pytest.mark.parametrize(("num_rows", "tiles"), [(3, SMALL), (40, LARGE)])
@pytest.mark.parametrize("name", CODINGS)
def test_every_format(name: str, num_rows: int, tiles: Tiles) -> None:
    raw = some_rows(name, 21, 3 * formats.get(name).BLOCK_SIZE)
    compared(name, raw, num_rows, tiles, torch.float32)


@pytest.mark.parametrize("num_rows", [1, 17, 33, 65, 140])
@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q8_0"])
def test_the_tiles_that_are_chosen(name: str, num_rows: int) -> None:
    raw = some_rows(name, 70, 256)
    compared(name, raw, num_rows, None, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_rows", [2, 40])
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "INT4", "MXFP4", "Q6_K"])
def test_half_precision(name: str, num_rows: int, dtype: torch.dtype) -> None:
    raw = in_groups("INT4", 128, 256) if name == "INT4" else some_rows(name, 37, 256)
    compared(name, raw, num_rows, SMALL if num_rows < 33 else LARGE, dtype)


@pytest.mark.parametrize(("group", "k"), [(32, 224), (64, 192), (128, 256), (96, 96), (256, 256)])
@pytest.mark.parametrize("name", ["INT4", "INT8"])
@pytest.mark.parametrize("num_rows", [4, 50])
def test_groups_of_every_width(name: str, group: int, k: int, num_rows: int) -> None:
    compared(name, in_groups(name, group, k), num_rows, SMALL, torch.float32)


@pytest.mark.parametrize("splits", [2, 4])
def test_inputs_that_are_cut(splits: int) -> None:
    tiles = Tiles(outputs=16, rows=16, splits=splits, num_warps=4, num_stages=1)
    for name in ("Q4_K", "Q8_0"):
        compared(name, some_rows(name, 16, 512 + 256), 5, tiles, torch.float32)


def test_rows_do_not_depend_on_each_other() -> None:
    matrix = made(("Q4_K", some_rows("Q4_K", 16, 256)))
    x = torch.from_numpy(normal(np.random.default_rng(4), 4, 256))
    together = product(x, matrix, SMALL)
    alone = torch.cat([product(x[i : i + 1], matrix, SMALL) for i in range(4)])
    assert torch.equal(together, alone)


def test_rows_of_a_wider_array() -> None:
    matrix = made(("Q4_0", some_rows("Q4_0", 37, 96)))
    wide = torch.from_numpy(normal(np.random.default_rng(4), 5, 200))
    for x in (wide[:, 32:128], wide[:, 1:97], wide[:, :192:2]):
        assert torch.equal(product(x, matrix), product(x.contiguous(), matrix))


def test_few_rows_keep_every_processor_busy_and_many_are_not_cut() -> None:
    for n, steps in [(4096, 32), (14336, 32), (128256, 32), (1024, 112), (576, 5)]:
        few, many = tiles_of(1, n, steps, 132), tiles_of(1000, n, steps, 132)
        programs = -(-n // few.outputs) * few.splits
        assert programs >= 2 * 132 or few.splits == max(1, steps // 4)
        assert few.splits == 1 or programs <= 4 * 132
        assert many.splits == 1 and many.rows == many.outputs == 128
