"""One table of cases for every operation, for any backend: correctness, benchmarks, support matrix.

A case builds its inputs from its own name, calls one operation on the given `Ops` and returns plain
arrays. Shapes are odd on purpose. `check` compares a backend with the reference.
"""

from collections.abc import Iterator

import numpy as np

from pagemill.ops.interface import Ops
from pagemill.weights import formats
from tests.ops.attention_cases import attention_cases
from tests.ops.case import (
    EXACT,
    HALF_KV,
    ROUNDED_ACTIVATIONS,
    Case,
    Outputs,
    check,
    normal,
    ragged_step,
    weight,
)
from tests.ops.expert_cases import expert_cases
from tests.ops.recurrent_cases import recurrent_cases
from tests.ops.row_cases import row_cases
from tests.ops.sample_cases import Knobs, sample_cases, sample_rows

__all__ = [
    "BLOCKS",
    "DENSE",
    "EXACT",
    "HALF_KV",
    "ROUNDED_ACTIVATIONS",
    "Case",
    "Knobs",
    "Outputs",
    "all_cases",
    "check",
    "normal",
    "ragged_step",
    "sample_rows",
    "weight",
]

DENSE = ("F32", "F16", "BF16")
# A backend may round activations to int8 beside these.
BLOCKS = (
    "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL",
    "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "MXFP4", "NVFP4",
    "TQ2_0", "TQ1_0", "Q2_0", "Q1_0",
)  # fmt: skip


def all_cases() -> list[Case]:
    """The table."""
    return [
        *_embed_cases(),
        *_linear_cases(),
        *row_cases(),
        *attention_cases(),
        *recurrent_cases(),
        *expert_cases(),
        *sample_cases(),
    ]


def _embed_cases() -> Iterator[Case]:
    for name in (*DENSE, *BLOCKS):

        def call(ops: Ops, rng: np.random.Generator, name: str = name) -> Outputs:
            size = formats.get(name).BLOCK_SIZE
            table = ops.upload(weight(rng, 96 if size < 64 else 3 * size, (name, 37)), table=True)
            ids = np.array([0, 36, 5, 5, 17], np.int32)
            return [np.asarray(ops.embed(ids, table))]

        yield Case(f"embed {name}", "embed", call)


def _linear_cases() -> Iterator[Case]:
    shapes = [(1, 32, 5), (1, 288, 7), (3, 64, 33), (17, 96, 50), (66, 32, 130)]  # T, K, N
    odd = [(1, 1, 1), (2, 5, 3), (19, 77, 41)]
    for name in (*DENSE, *BLOCKS):
        size = formats.get(name).BLOCK_SIZE
        whole = [(t, k if size <= 32 else -(-k // 96) * size, n) for t, k, n in shapes]
        for num_tokens, k, n in whole + (odd if name in DENSE else []):

            def call(
                ops: Ops,
                rng: np.random.Generator,
                name: str = name,
                size: tuple[int, int, int] = (num_tokens, k, n),
            ) -> Outputs:
                matrix = ops.upload(weight(rng, size[1], (name, size[2])))
                return [np.asarray(ops.linear(normal(rng, size[0], size[1]), matrix))]

            tolerance = EXACT if name in DENSE else ROUNDED_ACTIVATIONS
            yield Case(f"linear {name} {num_tokens}x{k}x{n}", "linear", call, tolerance)
    for name in BLOCKS:
        for num_tokens in (1, 2, 3, 4, 9):

            def lossless(
                ops: Ops, rng: np.random.Generator, name: str = name, num_tokens: int = num_tokens
            ) -> Outputs:
                k = 9 * max(32, formats.get(name).BLOCK_SIZE)
                x = rng.integers(-127, 128, (num_tokens, k)).astype(np.float32)
                x[:, ::32] = 127  # the largest of each group of 32: int8 holds it exactly
                return [np.asarray(ops.linear(x, ops.upload(weight(rng, k, (name, 37)))))]

            yield Case(f"linear {name} {num_tokens} rows of whole numbers", "linear", lossless)
    for parts in [
        (("Q8_0", 48), ("Q8_0", 16), ("Q8_0", 16)),
        (("Q4_1", 40), ("Q4_1", 24), ("Q8_0", 24)),
        (("F32", 5), ("F16", 3)),
        (("Q4_K", 40), ("Q4_K", 8), ("Q6_K", 24)),
        (("F16", 20), ("Q8_0", 36), ("Q5_K", 16), ("BF16", 7)),
    ]:

        def fused(
            ops: Ops, rng: np.random.Generator, parts: tuple[tuple[str, int], ...] = parts
        ) -> Outputs:
            matrix = ops.upload(weight(rng, 256, *parts))
            return [np.asarray(ops.linear(normal(rng, 7, 256), matrix))]

        names = "+".join(name for name, _ in parts)
        yield Case(f"linear fused {names}", "linear", fused, ROUNDED_ACTIVATIONS)
