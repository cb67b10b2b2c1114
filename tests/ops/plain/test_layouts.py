"""Every layout of quantized matrices means what the format means, to the last bit."""

import numpy as np
import pytest
import torch

from pagemill.ops.interface import Float32, Weight
from pagemill.ops.plain.layouts.coded import Coded
from pagemill.ops.plain.layouts.codings import CODINGS
from pagemill.ops.plain.layouts.float8 import Float8, round_blocks
from pagemill.ops.plain.layouts.int8 import Int8, round_rows
from pagemill.ops.plain.layouts.stacked import Stacked
from pagemill.ops.plain.layouts.table import device_bits, has_layout
from pagemill.ops.plain.matrices import Matrix, upload
from pagemill.weights import formats
from pagemill.weights.formats import fp8, int4, int8, q8_0, tables
from tests.golden.random_blocks import MASKS, OTHER_MASKS
from tests.ops.case import normal

Parts = tuple[str, np.ndarray]


def some_rows(name: str, rows: int, k: int) -> np.ndarray:
    """Random bits of a format, all but the exponents of scales."""
    form, rng = formats.get(name), np.random.default_rng(5)
    if name in ("Q8_0", "Q4_0", "Q4_1", "F32", "FP8"):
        return formats.get_packing(name).pack(normal(rng, rows, k))
    blocks = rng.integers(0, 256, (rows * k // form.BLOCK_SIZE, form.BLOCK_BYTES), np.uint8)
    masks = MASKS | OTHER_MASKS | {"INT4": OTHER_MASKS["INT8"]}
    for at, (kept, set_) in masks[name].items():
        blocks[:, at] = blocks[:, at] & kept | set_
    return blocks.reshape(rows, -1)


def meaning(*parts: Parts) -> Float32:
    return np.concatenate([formats.get(name).unpack(raw) for name, raw in parts])


def made(*parts: Parts) -> Matrix:
    rows = tuple(len(raw) for _, raw in parts)
    k = meaning(parts[0]).shape[1]
    weight = Weight(
        (sum(rows), k), tuple(name for name, _ in parts), tuple(raw for _, raw in parts), rows
    )
    return upload(weight, torch.device("cpu"), torch.float32)


def held(matrix: Matrix) -> Float32:
    return matrix.rows(torch.arange(matrix.n)).numpy()


@pytest.mark.parametrize("blocks", [1, 2, 3, 9])
@pytest.mark.parametrize("name", CODINGS)
def test_codes_mean_what_the_format_means(name: str, blocks: int) -> None:
    raw = some_rows(name, 7, blocks * formats.get(name).BLOCK_SIZE)
    matrix = made((name, raw))
    assert isinstance(matrix, Coded) and matrix.bits == CODINGS[name].bits
    np.testing.assert_array_equal(held(matrix), meaning((name, raw)))


@pytest.mark.parametrize("name", CODINGS)
def test_products_are_of_what_rows_mean(name: str) -> None:
    k = 3 * formats.get(name).BLOCK_SIZE
    raw = some_rows(name, 37, k)
    x = normal(np.random.default_rng(1), 5, k)
    expected = x.astype(np.float64) @ meaning((name, raw)).T.astype(np.float64)
    got = made((name, raw)).product(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected, 0, 1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name", sorted(set(formats.names()) - {"INT4", "INT8", "NF4", "FP4", "FP8"})
)
def test_bits_are_what_matrices_take(name: str) -> None:
    n, k = 64, 2048
    if name in formats.packing_names():
        raw = formats.get_packing(name).pack(normal(np.random.default_rng(2), n, k))
    else:
        raw = some_rows(name, n, k)
    matrix = made((name, raw))
    values = 64 if has_layout(name) else 0  # a table of 16, at most
    bits = device_bits(name, "float32")
    assert bits * n * k / 8 <= matrix.nbytes <= bits * n * k / 8 + values


@pytest.mark.parametrize("name", ["INT4", "INT8", "NF4", "FP4"])
def test_bits_of_folders_formats_are_the_most(name: str) -> None:
    matrix = made((name, some_rows(name, 16, 2048)))
    assert matrix.nbytes <= device_bits(name, "bfloat16") * 16 * 2048 / 8 + 64


def in_groups(name: str, group: int, k: int, dtype: str = "<f2", zeros: bool = True) -> np.ndarray:
    """Rows of a folder's format, whose blocks repeat the scales of groups."""
    rng = np.random.default_rng(3)
    scales = rng.uniform(0.01, 1, (19, k // group)).astype(dtype).astype(np.float32)
    scales = scales.repeat(group // 32, axis=1)
    if name in ("NF4", "FP4"):
        return tables.from_parts(rng.integers(0, 16, (19, k), np.uint8), scales)
    largest, middle = (16, 8) if name == "INT4" else (256, 128)
    points = rng.integers(0, largest, (19, k // group)) if zeros else np.full_like(scales, middle)
    points = points if not zeros else points.repeat(group // 32, axis=1)
    quants = rng.integers(0, largest, (19, k), np.uint8)
    if name == "INT4":
        return int4.from_parts(quants, scales, points.astype(np.uint8))
    return int8.from_parts(quants, scales, points.astype(np.uint16))


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
@pytest.mark.parametrize(("group", "k"), [(32, 96), (64, 192), (128, 384), (256, 256), (96, 96)])
@pytest.mark.parametrize("name", ["INT4", "INT8", "NF4", "FP4"])
def test_blocks_that_repeat_scales_are_wide_groups(
    name: str, group: int, k: int, dtype: str
) -> None:
    raw = in_groups(name, group, k, dtype)
    matrix = made((name, raw))
    assert isinstance(matrix, Coded) and matrix.group == group
    assert matrix.scales.dtype == (torch.float16 if dtype == "<f2" else torch.float32)
    np.testing.assert_array_equal(held(matrix), meaning((name, raw)))


def test_equal_zero_points_are_kept_once() -> None:
    raw = in_groups("INT4", 64, 128, zeros=False)
    matrix = made(("INT4", raw))
    assert isinstance(matrix, Coded) and matrix.shifts is None and matrix.zero == 8
    np.testing.assert_array_equal(held(matrix), meaning(("INT4", raw)))


@pytest.mark.parametrize("name", ["INT8", "Q8_0"])
def test_signed_bytes_with_a_scale_for_each_output_are_int8(name: str) -> None:
    rng = np.random.default_rng(6)
    scales = rng.uniform(0.01, 1, (19, 1)).astype("<f2").astype(np.float32).repeat(4, axis=1)
    codes = rng.integers(0, 256, (19, 128), np.uint8)
    if name == "INT8":
        raw = int8.from_parts(codes, scales, np.full((19, 4), 128, np.uint16))
    else:
        raw = q8_0.from_parts(codes, scales)
    matrix = made((name, raw), (name, raw[:3]))
    assert isinstance(matrix, Int8) and (matrix.n, matrix.k) == (22, 128)
    expected = meaning((name, raw), (name, raw[:3]))
    np.testing.assert_array_equal(held(matrix), expected)
    # Rows of whole numbers up to 127 lose nothing.
    x = rng.integers(-126, 127, (5, 128)).astype(np.float32)
    x[:, 7] = -127
    got = matrix.product(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, x @ expected.T, 1e-5, 1e-2)


def test_rounding_rows_to_bytes() -> None:
    x = torch.tensor([[254.0, -254.0, 1.0, -1.0, 3.0], [0.0] * 5])
    codes, scales = round_rows(x)
    assert codes.tolist() == [[127, -127, 0, 0, 2], [0] * 5]
    assert scales.tolist() == [2.0, 0.0]


@pytest.mark.parametrize(("scales", "k"), [("one", 96), ("outputs", 160), ("tiles", 384)])
def test_eight_bit_floats(scales: str, k: int) -> None:
    rng = np.random.default_rng(7)
    shape = {"one": (1, 1), "outputs": (150, 1), "tiles": (2, 3)}[scales]
    values = rng.uniform(0.01, 1, shape).astype(np.float32)
    if scales == "tiles":
        values = values.repeat(128, axis=0)[:150].repeat(4, axis=1)
    codes = rng.integers(0, 127, (150, k), np.uint8) | rng.integers(0, 2, (150, k), np.uint8) << 7
    raw = fp8.from_parts(codes, np.ascontiguousarray(np.broadcast_to(values, (150, k // 32))))
    matrix = made(("FP8", raw))
    assert isinstance(matrix, Float8) and matrix.block == (128 if scales == "tiles" else k)
    assert matrix.nbytes <= device_bits("FP8", "bfloat16") * 150 * k / 8 + 4 * 150
    np.testing.assert_array_equal(held(matrix), meaning(("FP8", raw)))
    x = normal(rng, 3, k)
    expected = x @ meaning(("FP8", raw)).T
    got = matrix.product(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected, 0, 1e-5 * np.abs(expected).max())


def test_eight_bit_floats_of_small_groups_are_unpacked() -> None:
    rng = np.random.default_rng(8)
    scales = rng.uniform(0.01, 1, (5, 4)).astype(np.float32)
    raw = fp8.from_parts(rng.integers(0, 127, (5, 128), np.uint8), scales)
    matrix = made(("FP8", raw))
    assert matrix.nbytes == 5 * 128 * 4
    np.testing.assert_array_equal(held(matrix), meaning(("FP8", raw)))


@pytest.mark.parametrize("block", [128, 200])
def test_rounding_blocks_to_eight_bit_floats(block: int) -> None:
    x = normal(np.random.default_rng(9), 4, 200)
    x[2] = 0
    codes, scales = round_blocks(torch.from_numpy(x), block)
    assert codes.shape == (4, 200) and scales.shape == (4, -(-200 // block))
    for start in range(0, 200, block):
        part = x[:, start : start + block]
        largest = np.abs(part).max(axis=1, keepdims=True)
        inverse = np.divide(448, largest, out=np.zeros_like(largest), where=largest > 0)
        got = codes[:, start : start + block].view(torch.uint8).numpy()
        np.testing.assert_array_equal(got, fp8.nearest(part * inverse.astype(np.float32)))
        np.testing.assert_allclose(scales[:, start // block, None], largest / 448, 1e-6)


def test_what_quantization_makes_has_a_scale_for_each_output() -> None:
    values = normal(np.random.default_rng(8), 5, 128)
    matrix = made(("FP8", fp8.pack(values)))
    assert isinstance(matrix, Float8) and matrix.scales.shape == (1, 5)
    np.testing.assert_allclose(held(matrix), values, 2**-4, 2**-10)


def test_fused_parts_of_one_format_are_one_matrix() -> None:
    parts = [("Q4_K", some_rows("Q4_K", rows, 256)) for rows in (8, 3)]
    matrix = made(*parts)
    assert isinstance(matrix, Coded) and matrix.n == 11
    np.testing.assert_array_equal(held(matrix), meaning(*parts))


def test_fused_parts_of_several_formats() -> None:
    names = ("Q4_K", "Q4_K", "Q6_K", "F32", "IQ3_S", "Q4_K")
    parts = [(name, some_rows(name, 3 + at, 256)) for at, name in enumerate(names)]
    matrix = made(*parts)
    assert isinstance(matrix, Stacked) and len(matrix.parts) == 4
    np.testing.assert_array_equal(held(matrix), meaning(*parts))
    ids = torch.tensor([0, 32, 7, 16, 12, 12])
    np.testing.assert_array_equal(matrix.rows(ids), meaning(*parts)[ids])
    x = normal(np.random.default_rng(1), 2, 256)
    got, expected = matrix.product(torch.from_numpy(x)).numpy(), x @ meaning(*parts).T
    np.testing.assert_allclose(got, expected, 0, 1e-5 * np.abs(expected).max())


def test_a_long_matrix_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagemill.ops.plain.layouts.coded._SLAB_ELEMENTS", 256 * 5)
    raw = some_rows("Q4_K", 23, 256)
    matrix = made(("Q4_K", raw))
    np.testing.assert_array_equal(held(matrix), meaning(("Q4_K", raw)))
    x = normal(np.random.default_rng(1), 2, 256)
    got, expected = matrix.product(torch.from_numpy(x)).numpy(), x @ meaning(("Q4_K", raw)).T
    np.testing.assert_allclose(got, expected, 0, 1e-5 * np.abs(expected).max())
