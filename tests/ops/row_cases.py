"""Cases of operations that work row by row."""

from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np

from pagemill.ops.interface import Activation, Array, Float32, Ops, Pooling, Rope, Step
from tests.ops.case import (
    EXACT,
    ROUNDED_ACTIVATIONS,
    Case,
    Outputs,
    compiled,
    normal,
    weight,
    whole_step,
)

SHAPES = [(1, 1), (3, 7), (5, 576), (2, 3, 64)]


def row_cases() -> Iterator[Case]:
    """Norms, activations, other elementwise operations, rotation, pooling."""
    yield from _mapped_cases()
    yield from _gated_cases()
    yield from _rope_cases()
    yield from _whole_text_cases()


def _mapped_cases() -> Iterator[Case]:
    """Operations whose result has the shape of their input."""

    def vector(ops: Ops, x: Float32) -> Array:
        return ops.vector(np.cos(np.arange(x.shape[-1], dtype=np.float32)))

    def shift(ops: Ops, x: Float32) -> Array:
        return ops.vector(np.sin(np.arange(x.shape[-1], dtype=np.float32)))

    def of_heads(ops: Ops, x: Float32) -> Array:
        return ops.vector(np.cos(np.arange(x[0].size, dtype=np.float32)))

    calls: dict[str, Callable[[Ops, Float32], Array]] = {
        "rms_norm": lambda ops, x: ops.rms_norm(x, vector(ops, x), 1e-5),
        "rms_norm of each head": lambda ops, x: ops.rms_norm(x, of_heads(ops, x), 1e-5),
        "layer_norm": lambda ops, x: ops.layer_norm(x, vector(ops, x), shift(ops, x), 1e-5),
        "layer_norm without shift": lambda ops, x: ops.layer_norm(x + 3, vector(ops, x), None, 0.1),
        "bias": lambda ops, x: ops.bias(x, shift(ops, x)),
        "scale": lambda ops, x: ops.scale(x, 0.3),
        "softcap": lambda ops, x: ops.softcap(x * 20, 30.0),
        "softcap of little": lambda ops, x: ops.softcap(x, 500.0),
        "normalize": lambda ops, x: ops.normalize(x),
        "normalize zeros": lambda ops, x: ops.normalize(x * (x > 0).all(-1, keepdims=True)),
    }
    for name, run in calls.items():
        for shape in SHAPES:

            def call(
                ops: Ops,
                rng: np.random.Generator,
                run: Callable[[Ops, Float32], Array] = run,
                shape: tuple[int, ...] = shape,
            ) -> Outputs:
                return [np.asarray(run(ops, normal(rng, *shape)))]

            yield Case(f"{name} {shape}", name.split()[0], call)


def _wide(rng: np.random.Generator, *shape: int) -> Float32:
    """Numbers of every size, and one so low that exp overflows on the way."""
    x = normal(rng, *shape) * 4
    x.flat[0] = -200
    return x


def _gated_cases() -> Iterator[Case]:
    for kind in get_args(Activation):
        for shape in [(1, 2), (3, 14), (5, 3072)]:

            def gated(
                ops: Ops,
                rng: np.random.Generator,
                kind: Activation = kind,
                shape: tuple[int, int] = shape,
            ) -> Outputs:
                return [np.asarray(ops.act_mul(_wide(rng, *shape), kind))]

            yield Case(f"act_mul {kind} {shape}", "act_mul", gated)

            def apart(
                ops: Ops,
                rng: np.random.Generator,
                kind: Activation = kind,
                shape: tuple[int, int] = shape,
            ) -> Outputs:
                return [np.asarray(ops.gated(normal(rng, *shape), _wide(rng, *shape), kind))]

            yield Case(f"gated {kind} {shape}", "gated", apart)
        for shape in SHAPES if kind != "clamped_silu" else []:

            def act(
                ops: Ops,
                rng: np.random.Generator,
                kind: Activation = kind,
                shape: tuple[int, ...] = shape,
            ) -> Outputs:
                return [np.asarray(ops.act(_wide(rng, *shape), kind))]

            yield Case(f"act {kind} {shape}", "act", act)
    for gates in (1, 35):

        def sigmoid(ops: Ops, rng: np.random.Generator, gates: int = gates) -> Outputs:
            return [np.asarray(ops.sigmoid_mul(normal(rng, 3, 35), _wide(rng, 3, gates)))]

        yield Case(f"sigmoid_mul by {gates}", "sigmoid_mul", sigmoid)


def _rope_cases() -> Iterator[Case]:
    for heads, dim, rotary in [(1, 2, 2), (3, 64, 64), (9, 80, 32)]:

        def call(
            ops: Ops,
            rng: np.random.Generator,
            size: tuple[int, int, int] = (heads, dim, rotary),
        ) -> Outputs:
            heads, dim, rotary = size
            rope = Rope(tuple(10000.0 ** (-i / (rotary / 2)) for i in range(rotary // 2)), 1.25)
            positions = np.array([0, 1, 7, 4000], np.int32)
            return [np.asarray(ops.rope(normal(rng, 4, heads, dim), positions, rope))]

        yield Case(f"rope {heads}x{dim} rotary {rotary}", "rope", call, 1e-4)

    def growing(ops: Ops, rng: np.random.Generator) -> Outputs:
        rope = Rope((1.0, 0.1, 0.01, 0.001), 0.8, growth=0.4, period=500)
        positions = np.array([0, 499, 500, 4000], np.int32)
        return [np.asarray(ops.rope(normal(rng, 4, 3, 8), positions, rope))]

    yield Case("rope that grows", "rope", growing, 1e-4)


def _whole_text_cases() -> Iterator[Case]:
    """Operations that need a step, in models of one or a few of them."""
    lens = [3, 1, 40]

    for kind in get_args(Pooling):

        def pool(ops: Ops, rng: np.random.Generator, kind: Pooling = kind) -> Outputs:
            step = whole_step(lens)
            step = whole_step(lens, out_rows=step.out_rows[[2, 0]].copy())
            return [np.asarray(ops.pool(normal(rng, sum(lens), 37), step, kind))]

        yield Case(f"pool {kind}", "pool", pool)

    def embeddings(ops: Ops, rng: np.random.Generator) -> Outputs:
        words, places, types = (
            ops.upload(weight(rng, 48, ("F32", rows)), table=True) for rows in (90, 40, 2)
        )
        ids, texts = (rng.integers(0, n, sum(lens)).astype(np.int32) for n in (90, 2))

        def model(step: Step, kv: Array) -> Array:
            x = ops.embed(step.token_ids, words) + ops.embed(step.positions, places)
            return x + ops.embed(step.token_types, types)

        return [compiled(ops, model, whole_step(lens, token_ids=ids, token_types=texts))]

    yield Case("embed words, positions and types", "embed", embeddings)

    def slices(ops: Ops, rng: np.random.Generator) -> Outputs:
        """Parts of heads are rotated, and what was there before is read again."""
        table = ops.upload(weight(rng, 4 * 48, ("F32", 50)), table=True)
        rope = Rope(tuple(0.3**i for i in range(8)))
        ids = rng.integers(0, 50, sum(lens)).astype(np.int32)

        def model(step: Step, kv: Array) -> Array:
            x = ops.embed(step.token_ids, table)
            tokens = x.shape[0]
            heads = x.reshape(tokens, 4, 48)
            turned = ops.rope(heads[:, 1:, 32:], step.positions, rope)  # (T, 3, 16)
            again = ops.rope(heads[..., 16:40], step.positions, rope)  # (T, 4, 24)
            again = ops.rope(again, step.positions, rope)
            y = x[:, 16:64] + turned.reshape(tokens, 48)
            return y + again.reshape(tokens, 96)[:, 48:] + heads[:, :, 12:24].reshape(tokens, 48)

        return [compiled(ops, model, whole_step(lens, token_ids=ids))]

    yield Case("slices of heads", "rope", slices)

    for name, k in (("F32", 75), ("Q8_0", 96)):

        def parts(ops: Ops, rng: np.random.Generator, name: str = name, k: int = k) -> Outputs:
            """A product of some columns, with a bias and an activation behind it."""
            table = ops.upload(weight(rng, k + 64, (name, 50)), table=True)
            matrix = ops.upload(weight(rng, k, (name, 70)))
            narrow = ops.upload(weight(rng, k, (name, 64)))
            bias, other = ops.vector(normal(rng, 70)), ops.vector(normal(rng, 64))
            ids = rng.integers(0, 50, sum(lens)).astype(np.int32)

            def model(step: Step, kv: Array) -> Array:
                x = ops.embed(step.token_ids, table)
                y = ops.act(ops.bias(ops.linear(x[:, 32 : k + 32], matrix), bias), "gelu")
                z = ops.act_mul(ops.bias(ops.linear(x[:, :k], narrow), other), "gelu_tanh")
                return (y[:, 10:42] + z + y[:, :32])[step.out_rows]

            return [compiled(ops, model, whole_step(lens, token_ids=ids))]

        tolerance = EXACT if name == "F32" else 3 * ROUNDED_ACTIVATIONS
        yield Case(f"linear {name} of a slice, bias, activation", "linear", parts, tolerance)
