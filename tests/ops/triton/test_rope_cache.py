"""Rotation and the cache's pages against the reference and against plain torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pagemill.ops.interface import Rope
from pagemill.ops.reference import ReferenceOps
from pagemill.ops.triton.rope_cache import rope, rope_and_store, store
from tests.ops.case import normal
from tests.ops.triton.pages import EIGHT_BITS, Pages, decoded, encoded, pages

POSITIONS = np.array([0, 1, 7, 400, 3], np.int32)
SLOTS = np.array([5, 17, -1, 0, 6], np.int32)
SIZES = [(1, 1, 2, 1), (3, 1, 64, 32), (9, 3, 80, 16), (14, 2, 12, 5)]  # H, G, D, half


def _table(half: int) -> tuple[Rope, torch.Tensor, torch.Tensor]:
    turning = Rope(tuple(100.0 ** (-i / half) for i in range(half)), 1.25)
    angle = np.arange(401, dtype=np.float32)[:, None] * np.array(turning.inv_freq, np.float32)
    cos, sin = (torch.from_numpy(np.float32(1.25) * f(angle)) for f in (np.cos, np.sin))
    return turning, cos, sin


@pytest.mark.parametrize("size", SIZES)
def test_rotation_agrees_with_the_reference(size: tuple[int, int, int, int]) -> None:
    heads, _, dim, half = size
    turning, cos, sin = _table(half)
    x = normal(np.random.default_rng(dim), len(POSITIONS), heads, dim)
    got = rope(torch.from_numpy(x), cos, sin, torch.from_numpy(POSITIONS))
    want = ReferenceOps().rope(x, POSITIONS, turning)
    np.testing.assert_allclose(got, want, 1e-4, 1e-5)
    np.testing.assert_array_equal(got[..., 2 * half :], x[..., 2 * half :])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, *EIGHT_BITS])
def test_one_launch_rotates_and_stores(size: tuple[int, int, int, int], kind: torch.dtype) -> None:
    heads, kept, dim, half = size
    _, cos, sin = _table(half)
    rng = np.random.default_rng(dim)
    fused = torch.from_numpy(normal(rng, len(POSITIONS), (heads + 2 * kept) * dim))
    parts = fused.split([heads * dim, kept * dim, kept * dim], dim=1)
    q, k, v = (part.reshape(len(POSITIONS), -1, dim) for part in parts)
    positions, slots = torch.from_numpy(POSITIONS), torch.from_numpy(SLOTS)
    cache = pages(kind, 3, 8, kept, dim)
    before = replace(cache, keys=cache.keys.clone(), values=cache.values.clone())
    got = rope_and_store(q, k, v, cos, sin, positions, slots, cache)
    assert torch.equal(got, rope(q, cos, sin, positions))
    turned = rope(k, cos, sin, positions)
    _assert_stored(cache, before, turned, v)
    again = pages(kind, 3, 8, kept, dim)
    store(turned, v, slots, again)
    for one, other in zip(cache.tensors(), again.tensors(), strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def _assert_stored(cache: Pages, before: Pages, k: torch.Tensor, v: torch.Tensor) -> None:
    slots = SLOTS[SLOTS >= 0]
    for got, old, scales, x in [
        (cache.keys, before.keys, cache.key_scales, k),
        (cache.values, before.values, cache.value_scales, v),
    ]:
        codes, of_heads = encoded(x[SLOTS >= 0], got.dtype)
        flat = got.flatten(0, 1)
        assert torch.equal(flat[slots].view(torch.uint8), codes.view(torch.uint8))
        if scales is not None:
            assert torch.equal(scales.flatten(0, 1)[slots], of_heads)
            error = (decoded(codes, of_heads) - x[SLOTS >= 0]).abs()
            assert error.max() <= x.abs().max() * (1 / 250 if got.dtype == torch.int8 else 1 / 27)
        untouched = np.setdiff1d(np.arange(len(flat)), slots)
        assert torch.equal(
            flat[untouched].view(torch.uint8), old.flatten(0, 1)[untouched].view(torch.uint8)
        )


@pytest.mark.parametrize("kind", EIGHT_BITS)
def test_codes_of_eight_bits_are_torchs_own(kind: torch.dtype) -> None:
    """Every power of two there is, halves between codes, zeros, and vectors of zeros."""
    steps = torch.arange(-64, 64, dtype=torch.float32)
    rows = [2.0**exponent * steps / 64 for exponent in (-130, -60, -9, 0, 3, 60, 120)]
    rows += [steps + 0.5, 448 * 2.0 ** -torch.arange(128.0), steps * 0]
    x = torch.stack(rows)[:, None]
    cache = pages(kind, 1, 16, 1, 128)
    store(x, -x, torch.arange(len(x), dtype=torch.int32), cache)
    for values, got, scales in [
        (x, cache.keys, cache.key_scales),
        (-x, cache.values, cache.value_scales),
    ]:
        codes, of_heads = encoded(values, kind)
        assert scales is not None
        assert torch.equal(scales[0, : len(x)], of_heads)
        np.testing.assert_array_equal(
            got[0, : len(x)].view(torch.uint8).numpy(), codes.view(torch.uint8).numpy()
        )


def test_more_angles_than_numbers_are_refused() -> None:
    _, cos, sin = _table(4)
    with pytest.raises(ValueError, match="angles for 8 numbers, and heads of 6"):
        rope(torch.zeros(1, 1, 6), cos, sin, torch.zeros(1, dtype=torch.int32))
