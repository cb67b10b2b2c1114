"""The real model on the cpu backend against the reference: the cost of rounding and nothing else.

Rounding activations to int8 is chaotic: a last bit that differs early flips roundings later, so two
right int8 backends differ from each other as much as each does from float. Their mean KL divergence
is stable (3.1e-3 on thousands of tokens) and is the sharp bound here; perplexity and agreement of
so few tokens carry standard errors of 0.6 % and 1.2 %, and get room for that. What holds to 0.5 %
on thousands of tokens is measured by `benchmarks/quality.py`. With float weights nothing is
rounded but the cache, and the bounds are tight.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pagemill._native", reason="the native kernels are not built")

from benchmarks import quality
from pagemill import _native, models
from pagemill.checkpoint import Part
from pagemill.ops.cpu import CpuOps
from pagemill.ops.interface import Float32, Int32, Weight
from pagemill.weights.load import Checkpoint, open_model

NUM_TOKENS, NUM_ISA_TOKENS = 256, 24  # the portable kernels take 0.3 s for a token
MAX_KL, MAX_KL_OF_FEW = 6e-3, 1e-2
MAX_KL_OF_ATTENTION = 1e-4  # in bf16, where the processor multiplies that; 5e-7 elsewhere
NIBBLE_BLOCK, MINIMUM = 20, slice(2, 4)  # bytes of a Q4_1 block; where its minimum lies


@pytest.fixture(scope="module")
def checkpoint(smollm2_path: Path) -> Checkpoint:
    return open_model(smollm2_path, models)


@pytest.fixture(scope="module")
def ids(checkpoint: Checkpoint) -> Int32:
    return quality.windows_of(checkpoint, quality.documentation(), 1, NUM_TOKENS)[0]


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint, ids: Int32) -> Float32:
    return logits_of(checkpoint, quality.WholeReference(), ids)


def logits_of(checkpoint: Checkpoint, ops, ids: Int32, source=None) -> Float32:
    source = source or checkpoint.source
    return quality.Runner(checkpoint.card, source, ops, len(ids)).logits(ids)


def is_right(scores: quality.Scores) -> bool:
    return scores.kl.mean() < MAX_KL and abs(scores.ratio - 1) < 0.02 and scores.agreement > 0.93


class DoctoredSource:
    """The file's weights but for one matrix, in which `fault` changes the blocks of Q4_1."""

    def __init__(self, checkpoint: Checkpoint, victim: str, fault) -> None:
        self._source, self._victim, self._fault = checkpoint.source, victim, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def matrix(self, *parts: Part, k: int) -> Weight:
        weight = self._source.matrix(*parts, k=k)
        if [name for name, _ in parts] != [self._victim]:
            return weight
        assert weight.formats == ("Q4_1",)
        blocks = weight.parts[0].copy().reshape(-1, NIBBLE_BLOCK)
        self._fault(blocks)
        return replace(weight, parts=(blocks.reshape(weight.parts[0].shape),))


def no_minimum(blocks) -> None:
    blocks[:, MINIMUM] = 0


def swapped_nibbles(blocks) -> None:
    quants = blocks[:, 4:]
    quants[:] = (quants << 4) | (quants >> 4)


def test_the_reference_run_here_is_the_reference(checkpoint, ids, reference):
    whole = quality.Runner(checkpoint.card, checkpoint.source, quality.WholeReference(), NUM_TOKENS)
    assert quality.exactness(checkpoint, whole, ids[:4]) < 1e-3


def test_cpu_costs_the_rounding_of_activations(checkpoint, ids, reference):
    scores = quality.compare(reference, logits_of(checkpoint, CpuOps(2), ids), ids)
    assert is_right(scores), scores


@pytest.mark.parametrize(("kv_dtype", "most"), [("f16", MAX_KL_OF_ATTENTION), ("f32", 1e-5)])
def test_cpu_with_float_weights_is_the_reference(checkpoint, ids, reference, kv_dtype, most):
    """But for what attention rounds over an fp16 cache."""
    floats = quality.FloatSource(checkpoint.source)
    logits = logits_of(checkpoint, CpuOps(2, kv_dtype=kv_dtype), ids, floats)
    scores = quality.compare(reference, logits, ids)
    assert scores.kl.mean() < most
    assert abs(scores.ratio - 1) < 1e-3
    assert scores.agreement > 0.99


@pytest.mark.parametrize("isa", _native.instruction_sets()[1:])
def test_every_instruction_set_is_as_right(checkpoint, ids, reference, isa):
    few = ids[:NUM_ISA_TOKENS]
    scores = quality.compare(
        reference[:NUM_ISA_TOKENS], logits_of(checkpoint, CpuOps(2, isa), few), few
    )
    assert scores.kl.mean() < MAX_KL_OF_FEW


@pytest.mark.parametrize("fault", [no_minimum, swapped_nibbles])
def test_a_fault_in_one_matrix_is_seen(checkpoint, ids, reference, fault):
    source = DoctoredSource(checkpoint, "blk.20.ffn_down", fault)
    scores = quality.compare(reference, logits_of(checkpoint, CpuOps(2), ids, source), ids)
    assert not is_right(scores)


def test_activations_of_half_the_steps_are_seen(checkpoint, ids, reference, monkeypatch):
    def coarse(x: Float32) -> Float32:
        groups = x.reshape(len(x), -1, quality.GROUP)
        scale = np.abs(groups).max(axis=-1, keepdims=True) / 63
        return (np.rint(groups / np.where(scale > 0, scale, 1)) * scale).reshape(x.shape)

    monkeypatch.setattr(quality, "int8_rounded", coarse)
    scores = quality.compare(reference, logits_of(checkpoint, quality.Int8Reference(), ids), ids)
    assert not is_right(scores)
