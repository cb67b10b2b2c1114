"""Cases of sampling."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from pagemill.ops.interface import Float32, Ops, SampleRows
from tests.ops.case import Case, Outputs, normal


@dataclass(frozen=True)
class Knobs:
    """One sampled row, for building SampleRows by hand."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    position: int = 0
    num_logprobs: int = -1
    edits: tuple[tuple[int, float, float], ...] = ()  # (id, mul, add)


def sample_rows(knobs: list[Knobs]) -> SampleRows:
    """The flat arrays of some rows."""
    edits = [edit for row in knobs for edit in row.edits]
    return SampleRows(
        temperature=np.array([row.temperature for row in knobs], np.float32),
        top_k=np.array([row.top_k for row in knobs], np.int32),
        top_p=np.array([row.top_p for row in knobs], np.float32),
        min_p=np.array([row.min_p for row in knobs], np.float32),
        seeds=np.array([row.seed for row in knobs], np.uint64),
        positions=np.array([row.position for row in knobs], np.int32),
        num_logprobs=np.array([row.num_logprobs for row in knobs], np.int32),
        edit_starts=np.array([0, *accumulate(len(row.edits) for row in knobs)], np.int32),
        edit_ids=np.array([id_ for id_, _, _ in edits], np.int32),
        edit_mul=np.array([mul for _, mul, _ in edits], np.float32),
        edit_add=np.array([add for _, _, add in edits], np.float32),
    )


def sampled(ops: Ops, logits: Float32, knobs: list[Knobs]) -> Outputs:
    """ids, logprobs, top ids and top logprobs; where no id stands, no logprob counts."""
    result = ops.sample(logits, sample_rows(knobs))
    top = np.where(result.top_ids >= 0, result.top_logprobs, np.float32(0))
    return [result.ids, result.logprobs, result.top_ids, top]


def sample_cases() -> Iterator[Case]:
    """Every knob, alone and together."""
    inf = float("inf")
    edits = ((3, 1.5, 0.0), (0, 2.0, -1.0), (40, 1.0, 5.0), (7, 1.0, -inf))
    tables = {
        "greedy": [Knobs(temperature=0, position=i) for i in range(7)],
        "plain": [Knobs(seed=2**63 + 977 * i, position=i * i) for i in range(40)],
        "cold and hot": [Knobs(temperature=0.01 + i / 4, seed=i) for i in range(20)],
        "top_k": [Knobs(top_k=k, seed=k) for k in (1, 2, 3, 50, 900, 2000)],
        "top_p": [Knobs(top_p=p, seed=9) for p in (1e-6, 0.1, 0.5, 0.9, 0.999, 1.0)],
        "min_p": [Knobs(min_p=p, seed=8, position=3) for p in (1e-6, 0.05, 0.5, 1.0)],
        "all knobs": [
            Knobs(0.7, 40, 0.9, 0.05, seed=2**32 * i + 5, position=i, edits=edits)
            for i in range(20)
        ],
        "edits": [Knobs(temperature=i % 2, seed=i, edits=edits[: i % 5]) for i in range(12)],
        "bans": [Knobs(0, edits=tuple((j, 1.0, -inf) for j in range(i))) for i in (1, 900)],
        "logprobs": [Knobs(seed=i, num_logprobs=i - 1, edits=edits) for i in range(6)],
    }
    for name, knobs in tables.items():
        for vocab in (901, 41):
            if vocab <= max((e[0] for row in knobs for e in row.edits), default=0):
                continue

            def call(
                ops: Ops,
                rng: np.random.Generator,
                knobs: list[Knobs] = knobs,
                vocab: int = vocab,
            ) -> Outputs:
                logits = normal(rng, len(knobs), vocab) * 3
                return sampled(ops, logits, knobs)

            yield Case(f"sample {name} of {vocab}", "sample", call)

    def ties(ops: Ops, rng: np.random.Generator) -> Outputs:
        logits = rng.integers(0, 3, (24, 65)).astype(np.float32)
        knobs = [
            Knobs(i % 3 / 2, top_k=i % 7, top_p=(0.3, 0.8, 1.0)[i % 3], seed=i, num_logprobs=5)
            for i in range(24)
        ]
        return sampled(ops, logits, knobs)

    yield Case("sample ties", "sample", ties)

    def best_of_many(ops: Ops, rng: np.random.Generator) -> Outputs:
        """The first of two equal ones, in each part of a long row, alone and among others."""
        found = []
        for places in ([0], [511, 512], [1023, 1700], [1800], [512, 1024, 1536, 1800]):
            logits = rng.normal(size=(1, 1801)).astype(np.float32)
            logits[:, places] = 9
            found += [sampled(ops, np.repeat(logits, n, 0), [Knobs(0)] * n) for n in (1, 3)]
        return [array for outputs in found for array in outputs]

    yield Case("sample best of many", "sample", best_of_many)
