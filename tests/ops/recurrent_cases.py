"""Cases of operations that go along a sequence and keep a state."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pagemill.ops.interface import Float32, Ops, Step
from tests.ops.case import EXACT, Case, Outputs, normal, ragged_step

SLOTS = 6
# Rows of several steps: how many tokens each brings, and the slots it is read from and written to.
# The second row begins anew in a slot that was used; the third goes on in another.
STEPS = (
    ([5, 1, 18, 2], [[-1, 4], [-1, 0], [-1, 3], [-1, 1]]),
    ([1, 1, 1, 1], [[4, 4], [0, 0], [3, 3], [1, 1]]),
    ([2, 7, 1, 3], [[4, 4], [-1, 0], [3, 5], [1, 1]]),
    ([1, 1, 70, 1], [[4, 4], [0, 0], [5, 5], [3, 1]]),
)


def recurrent_cases() -> Iterator[Case]:
    """Convolutions of any length; recurrences of heads and groups of every size."""
    for channels, taps, biased in [(3, 4, True), (48, 4, False), (300, 2, True), (17, 1, True)]:

        def conv(
            ops: Ops,
            rng: np.random.Generator,
            size: tuple[int, int, bool] = (channels, taps, biased),
        ) -> Outputs:
            channels, taps, biased = size
            weight = ops.vector(normal(rng, channels * taps))
            bias = ops.vector(normal(rng, channels)) if biased else None
            state = ops.new_state(2, SLOTS, channels * (taps - 1))[1]

            def run(step: Step) -> Float32:
                x = normal(rng, len(step.positions), channels)
                return np.asarray(ops.short_conv(x, weight, bias, state, step))

            return list(steps(run))

        bias = ", bias" if biased else ""
        yield Case(f"short_conv of {channels}, {taps} taps{bias}", "short_conv", conv, EXACT)
    for heads, dim, groups, state_size in [
        (1, 1, 1, 1),
        (4, 16, 2, 12),
        (6, 70, 3, 7),
        (2, 64, 1, 128),
    ]:

        def scan(
            ops: Ops,
            rng: np.random.Generator,
            size: tuple[int, int, int, int] = (heads, dim, groups, state_size),
        ) -> Outputs:
            heads, dim, groups, state_size = size
            a, d = ops.vector(-np.exp(normal(rng, heads))), ops.vector(normal(rng, heads))
            state = ops.new_state(2, SLOTS, heads * dim * state_size)[1]

            def run(step: Step) -> Float32:
                tokens = len(step.positions)
                x, dt = normal(rng, tokens, heads, dim), 2 * normal(rng, tokens, heads)
                b, c = normal(rng, 2, tokens, groups, state_size)
                dt[0, 0], dt[-1, -1] = 30, -30  # where a naive formula overflows, or gives nothing
                return np.asarray(ops.mamba2(x, dt, b, c, a, d, state, step))

            return list(steps(run))

        name = f"mamba2 {heads} heads of {dim}, {groups} groups, {state_size} numbers"
        yield Case(name, "mamba2", scan, EXACT)


def steps(run: Callable[[Step], Float32]) -> Iterator[Float32]:
    """The results of `STEPS`, one after the other."""
    lens = [0] * 4
    pages = np.arange(4 * 8, dtype=np.int32)
    for takes, slots in STEPS:
        lens = [0 if source < 0 else n for n, (source, _) in zip(lens, slots, strict=True)]
        step = ragged_step(lens, takes, pages, 16)
        yield run(replace(step, state_slots=np.array(slots, np.int32)))
        lens = [a + b for a, b in zip(lens, takes, strict=True)]
