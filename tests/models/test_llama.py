"""Llama: cached equals uncached, batched equals alone, and its text needs very little of arrays."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pagemill.errors import Unsupported
from pagemill.models import Model, architectures, build
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Float32, Step
from pagemill.ops.reference import ReferenceOps
from pagemill.types import ModelCard
from tests.fakes import TinySource
from tests.ops.cases import ragged_step
from tests.samples import TINY_CARD

UNTIED = replace(TINY_CARD, tied_embeddings=False, heads=6, kv_heads=3, layers=3, rope_dim=2)
CARDS = [TINY_CARD, UNTIED]


def tiny(card: ModelCard) -> Model:
    return build(card, ReferenceOps(), TinySource(card))


def step_of(prompts: list[list[int]], lens: list[int], takes: list[int], every: bool) -> Step:
    """Rows of prompts that have `lens` tokens computed and bring `takes` more."""
    step = ragged_step(lens, takes, np.arange(16, dtype=np.int32)[::-1], 8)
    ids = [p[a : a + n] for p, a, n in zip(prompts, lens, takes, strict=True)]
    token_ids = np.array([token for part in ids for token in part], np.int32)
    out = np.arange(len(token_ids), dtype=np.int32) if every else step.out_rows
    return replace(step, token_ids=token_ids, out_rows=out)


@pytest.mark.parametrize("card", CARDS, ids=["tied", "untied"])
def test_cached_and_batched_equal_uncached_and_alone(card: ModelCard) -> None:
    model = tiny(card)
    prompts = [[5, 3, 40, 7, 7, 1, 0], [9], [2, 8, 2, 8, 30]]
    kv = model.new_kv(16, 8)
    first = model(step_of(prompts, [0, 0, 0], [4, 1, 2], every=True), kv)
    second = model(step_of([prompts[0], prompts[0], prompts[2]], [4, 0, 2], [3, 0, 3], True), kv)
    for row, (begin, end) in enumerate([(0, 4), (4, 5), (5, 7)]):
        alone = model(step_of([prompts[row]], [0], [len(prompts[row])], True), model.new_kv(16, 8))
        np.testing.assert_array_equal(first[begin:end], alone[: end - begin])
        if row != 1:
            rest = second[:3] if row == 0 else second[3:]
            np.testing.assert_array_equal(rest, alone[end - begin :])


def test_a_step_may_sample_no_row() -> None:
    model = tiny(TINY_CARD)
    step = replace(step_of([[1, 2, 3]], [0], [3], True), out_rows=np.empty(0, np.int32))
    assert model(step, model.new_kv(16, 8)).shape == (0, TINY_CARD.vocab_size)


class Strict:
    """An array that offers what a model may use, and nothing else."""

    def __init__(self, values: Float32) -> None:
        self._values = values
        self.shape = values.shape

    def __getitem__(self, key: Any) -> "Strict":
        return Strict(self._values[key])

    def reshape(self, *shape: int) -> "Strict":
        return Strict(self._values.reshape(*shape))

    def __add__(self, other: "Strict") -> "Strict":
        return Strict(self._values + other._values)


class StrictOps:
    """The reference backend behind strict arrays."""

    def __init__(self) -> None:
        self._ops = ReferenceOps()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ops, name)
        if name in ("upload", "vector", "new_kv"):
            return method

        def call(*args: Any, **options: Any) -> Strict:
            plain = (a._values if isinstance(a, Strict) else a for a in args)
            return Strict(method(*plain, **options))

        return call


@pytest.mark.parametrize("card", CARDS, ids=["tied", "untied"])
def test_the_forward_pass_needs_shape_slices_reshape_and_plus(card: ModelCard) -> None:
    strict: Any = StrictOps()
    model = build(card, strict, TinySource(card))
    step = step_of([[5, 3, 40], [9]], [0, 0], [3, 1], every=False)
    got = model(step, model.new_kv(16, 8))
    want = tiny(card)(step, tiny(card).new_kv(16, 8))
    np.testing.assert_array_equal(got._values, want)


def test_rope_factors_stretch_the_frequencies() -> None:
    plain = rotary(TINY_CARD, TinySource(TINY_CARD)).inv_freq
    source = TinySource(TINY_CARD, extra=("rope_freqs",))
    stretched = rotary(TINY_CARD, source).inv_freq
    assert plain == (1.0, 0.01)
    np.testing.assert_allclose(stretched, plain / source.vector(("rope_freqs", 2)), rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt5", "layers", "../llama", "", "llama.llama"])
def test_an_unknown_architecture_lists_those_that_exist(name: str) -> None:
    card = replace(TINY_CARD, architecture=name)
    with pytest.raises(Unsupported, match=r"supported: .*llama"):
        build(card, ReferenceOps(), TinySource(TINY_CARD))
    assert "llama" in architectures()
