"""Experts of every layout in one launch a product, against each of them alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pagemill.ops.cuda import CudaOps
from pagemill.ops.expert_products import as_one
from pagemill.ops.interface import Weight
from pagemill.ops.plain.layouts import float8
from pagemill.ops.plain.layouts.codings import CODINGS
from pagemill.ops.plain.layouts.int8 import Int8
from pagemill.ops.triton import eight_bits, grouped_coded, grouped_eight_bits
from pagemill.ops.triton.coded import Tiles
from pagemill.ops.triton.grouped import sorted_routes
from pagemill.ops.triton.round_rows import round_float8
from pagemill.weights import formats
from pagemill.weights.formats import int4, int8
from tests.ops.case import normal
from tests.ops.plain.test_cases import OnCodes
from tests.ops.plain.test_layouts import meaning, some_rows

CPU = torch.device("cpu")
COUNT, TOP_K, N = 5, 2, 21
CHOSEN = torch.tensor([[0, 4], [4, 1], [1, 4], [4, 0], [1, 0], [0, 1]])  # two have nobody


@pytest.fixture(scope="module")
def ops() -> CudaOps:
    return CudaOps("cpu", torch.float32, kernels=True)


def weight(*parts: tuple[str, np.ndarray], orders: tuple[Any, ...] = ()) -> Weight:
    rows = tuple(len(raw) for _, raw in parts)
    k = meaning(parts[0]).shape[1]
    names, raws = zip(*parts, strict=True)
    return Weight((sum(rows), k), names, raws, rows, orders=orders)


def check(ops: CudaOps, weights: Sequence[Weight], dtype: torch.dtype = torch.float32) -> None:
    """Products of all at once are those of each matrix alone, by torch's calls."""
    matrices = [ops.upload(one) for one in weights]
    n, k = matrices[0].n, matrices[0].k
    rng = np.random.default_rng(8)
    x = torch.from_numpy(normal(rng, len(CHOSEN), k)).to(dtype)
    bias = torch.from_numpy(normal(rng, COUNT, n))
    routes = sorted_routes(CHOSEN, COUNT)
    expert = CHOSEN.flatten()[routes.order.long()]
    rows = x[routes.order.long() // TOP_K]
    plain = [OnCodes("cpu", dtype).upload(one) for one in weights]
    want = torch.cat([plain[e].product(row[None]) for e, row in zip(expert, rows, strict=True)])
    all_of_them = as_one(matrices, CPU)
    assert all_of_them is not None and all_of_them.n == n
    got = all_of_them.product(x, routes, gather=True)
    assert got.dtype == dtype
    error = {torch.float32: 2e-6, torch.float16: 2**-9}[dtype] * float(want.abs().max())
    torch.testing.assert_close(got, want, rtol=0, atol=error)
    torch.testing.assert_close(all_of_them.product(rows, routes, gather=False), got, rtol=0, atol=0)
    biased = all_of_them.product(x, routes, bias, gather=True)
    torch.testing.assert_close(biased, (want + bias[expert]).to(dtype), rtol=0, atol=2 * error)
    every = torch.arange(n)
    for matrix, one in zip(matrices, plain, strict=True):
        assert torch.equal(matrix.rows(every), one.rows(every)), "parts of the whole are the same"


def dealt(*parts: tuple[str, np.ndarray]) -> list[Weight]:
    """Rows for each expert out of those of all."""
    each = [(name, np.split(raw, COUNT)) for name, raw in parts]
    return [weight(*((name, raws[e]) for name, raws in each)) for e in range(COUNT)]


@pytest.mark.parametrize("name", sorted(set(CODINGS) - {"INT4", "INT8"}))
def test_every_format(name: str, ops: CudaOps) -> None:
    size = formats.get(name).BLOCK_SIZE
    check(ops, dealt((name, some_rows(name, COUNT * N, size if size > 64 else 3 * size))))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "MXFP4", "Q8_0"])
def test_half_precision(name: str) -> None:
    half = CudaOps("cpu", torch.float16, kernels=True)
    check(half, dealt((name, some_rows(name, COUNT * N, 256))), torch.float16)


def test_parts_of_several_formats_and_plain_numbers(ops: CudaOps) -> None:
    names = ("Q4_K", "Q6_K", "F32")
    check(ops, dealt(*((name, some_rows(name, COUNT * N, 256)) for name in names)))
    check(ops, dealt(("F32", some_rows("F32", COUNT * N, 48))))


def int4_of(rng: np.random.Generator, group: int, zero: int | None, dtype: str) -> np.ndarray:
    """Rows of 256 whose blocks repeat scales of groups; zero points all one, or any."""
    scales = rng.uniform(0.01, 1, (N, 256 // group)).astype(dtype).astype(np.float32)
    zeros = rng.integers(0, 16, scales.shape) if zero is None else np.full(scales.shape, zero)
    of_blocks = (part.repeat(group // 32, axis=1) for part in (scales, zeros.astype(np.uint8)))
    return int4.from_parts(rng.integers(0, 16, (N, 256), np.uint8), *of_blocks)


def test_experts_that_were_read_differently(ops: CudaOps) -> None:
    """Groups of several widths, scales of several types, zero points that are one or many."""
    rng, made = np.random.default_rng(2), []
    for group, zero, dtype in [
        (128, None, "<f2"), (64, 8, "<f4"), (256, 3, "<f2"), (64, None, "<f2"), (128, 8, "<f4"),
    ]:  # fmt: skip
        made.append(weight(("INT4", int4_of(rng, group, zero, dtype))))
    check(ops, made)
    wide = int8.from_parts(
        rng.integers(0, 256, (COUNT * N, 64), np.uint8),
        rng.uniform(0.01, 1, (COUNT * N, 2)).astype(np.float32),
        rng.integers(0, 256, (COUNT * N, 2), np.uint16),
    )
    check(ops, dealt(("INT8", wide)))
    zeros = [weight(("INT4", int4_of(rng, 128, zero, "<f2"))) for zero in (8, 8, 3, 8, 9)]
    check(ops, zeros)


def test_inputs_that_are_sorted(ops: CudaOps) -> None:
    rng = np.random.default_rng(3)
    raws = [int4_of(rng, 128, None, "<f2") for _ in range(COUNT)]
    orders = [rng.permutation(256).astype(np.int32) for _ in range(COUNT)]
    check(
        ops,
        [weight(("INT4", raw), orders=(order,)) for raw, order in zip(raws, orders, strict=True)],
    )


def test_layouts_that_differ_are_left_alone(ops: CudaOps) -> None:
    raws = [(name, some_rows(name, N, 256)) for name in ("Q4_0", "Q8_0", "F32", "Q4_0", "Q4_0")]
    assert as_one([ops.upload(weight(raw)) for raw in raws], CPU) is None
    two = [weight(raws[0]), weight(raws[0], raws[1])]
    assert as_one([ops.upload(one) for one in two], CPU) is None
    split = [weight(raws[0], raws[1]), weight(raws[1], raws[0])]
    assert as_one([ops.upload(one) for one in split], CPU) is None


def test_bytes_and_eight_bit_floats(ops: CudaOps) -> None:
    rng = np.random.default_rng(4)
    scales = rng.uniform(0.01, 1, (COUNT * N, 1)).astype("<f2").astype(np.float32)
    codes = rng.integers(0, 256, (COUNT * N, 256), np.uint8)
    of_blocks = scales.repeat(8, axis=1)
    raw = formats.q8_0.from_parts(codes, of_blocks)
    weights = dealt(("Q8_0", raw))
    assert isinstance(ops.upload(weights[0]).matrix, Int8)  # type: ignore[attr-defined]
    check(ops, weights)
    bits = rng.integers(0, 127, codes.shape, np.uint8)
    check(ops, dealt(("FP8", formats.fp8.from_parts(bits, of_blocks))))  # unpacked by the kernel
    of_tiles = rng.uniform(0.01, 1, (COUNT * N, 2)).astype(np.float32).repeat(4, axis=1)
    check(ops, dealt(("FP8", formats.fp8.from_parts(bits, of_tiles))))
    mixed = np.concatenate([of_blocks[:N], of_tiles[N:]])
    check(ops, dealt(("FP8", formats.fp8.from_parts(bits, mixed))))


@pytest.mark.parametrize("block", [128, 256])
def test_eight_bit_floats_by_eight_bit_floats(block: int) -> None:
    rng = np.random.default_rng(5)
    x = torch.from_numpy(normal(rng, len(CHOSEN), 256))
    codes, scales = zip(
        *(float8.round_blocks(torch.from_numpy(normal(rng, N, 256)), block) for _ in range(COUNT)),
        strict=True,
    )
    weights, of_weights = torch.stack(codes), torch.stack([one.T for one in scales]).contiguous()
    routes = sorted_routes(CHOSEN, COUNT)
    rows, of_rows = round_float8(x, block)
    got = grouped_eight_bits.product(
        rows, of_rows, weights, of_weights, torch.float32, routes, gather=True
    )
    for place, route in enumerate(routes.order.tolist()):
        token, expert = route // TOP_K, int(CHOSEN.flatten()[route])
        part = slice(token, token + 1)
        want = eight_bits.product(
            rows[part], of_rows[part], weights[expert], of_weights[expert], torch.float32
        )
        torch.testing.assert_close(got[place], want[0], rtol=1e-5, atol=1e-5)


def test_many_tokens_in_large_tiles(ops: CudaOps) -> None:
    """Runs of several blocks, and weights made of codes instead of sums that are scaled."""
    matrices = [ops.upload(one) for one in dealt(("Q4_K", some_rows("Q4_K", COUNT * N, 256)))]
    rng = np.random.default_rng(6)
    chosen = torch.from_numpy(rng.integers(0, 2, (150, 1)))
    x = torch.from_numpy(normal(rng, 150, 256))
    all_of_them: Any = as_one(matrices, CPU)
    routes = sorted_routes(chosen, COUNT)
    tiles = Tiles(outputs=32, rows=64, splits=1, num_warps=4, num_stages=1)
    got = grouped_coded.product(x, all_of_them.codes, routes, gather=True, tiles=tiles)
    numbers = torch.stack([matrix.rows(torch.arange(N)) for matrix in matrices])
    order = routes.order.long()
    want = torch.einsum("mk,mnk->mn", x[order], numbers[chosen[order, 0]])
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6 * float(want.abs().max()))


def test_no_tokens(ops: CudaOps) -> None:
    for name in ("Q4_K", "FP8"):
        matrices = [ops.upload(one) for one in dealt((name, some_rows(name, COUNT * N, 256)))]
        all_of_them = as_one(matrices, CPU)
        assert all_of_them is not None
        routes = sorted_routes(torch.empty((0, TOP_K), dtype=torch.int64), COUNT)
        assert all_of_them.product(torch.zeros(0, 256), routes, gather=True).shape == (0, N)
