"""Cases of mixtures of experts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pagemill.ops.interface import Ops, Routing
from tests.ops.case import EXACT, ROUNDED_ACTIVATIONS, Case, Outputs, normal, weight

ROUTINGS = {
    "softmax, top 2": Routing(2),
    "softmax, not normalized, scaled": Routing(3, normalize=False, scale=2.5),
    "sigmoid, top 1": Routing(1, "sigmoid"),
    "best of groups": Routing(4, groups=4, top_groups=2),
    "best pairs of groups": Routing(
        6, "sigmoid", scale=1.5, groups=4, top_groups=2, group_pairs=True
    ),
    "clamped": Routing(4, activation="clamped_silu"),
    "all": Routing(16, activation="gelu"),
}


@dataclass(frozen=True)
class Mixture:
    """The sizes of a mixture and what its matrices are stored as."""

    tokens: int
    hidden: int
    inner: int
    experts: int = 16
    gate: tuple[str, ...] = ("F32",)
    down: str = "F32"
    biases: bool = False

    def outputs(self, ops: Ops, rng: np.random.Generator, routing: Routing) -> Outputs:
        rows = 2 * self.inner // len(self.gate)
        parts = [(name, rows) for name in self.gate]
        gate_up = [ops.upload(weight(rng, self.hidden, *parts)) for _ in range(self.experts)]
        down = [
            ops.upload(weight(rng, self.inner, (self.down, self.hidden)))
            for _ in range(self.experts)
        ]
        x = normal(rng, self.tokens, self.hidden)
        router = normal(rng, self.tokens, self.experts) * 2
        router[:, self.experts // 2] = router[:, self.experts // 3]  # ties
        if not self.biases:
            return [np.asarray(ops.experts(x, router, routing, gate_up, down))]
        y = ops.experts(
            x,
            router,
            routing,
            gate_up,
            down,
            selection_bias=ops.vector(normal(rng, self.experts) / 4),
            gate_up_bias=[ops.vector(normal(rng, 2 * self.inner)) for _ in range(self.experts)],
            down_bias=[ops.vector(normal(rng, self.hidden)) for _ in range(self.experts)],
        )
        return [np.asarray(y)]


def expert_cases() -> Iterator[Case]:
    """Every way to route, with and without biases; every kind of matrix."""
    table: list[tuple[str, Routing, Mixture]] = []
    for name, routing in ROUTINGS.items():
        table.append((name, routing, Mixture(7, 24, 20)))
        table.append((f"{name}, biases", routing, Mixture(3, 40, 32, biases=True)))
    quantized = Mixture(9, 64, 96, gate=("Q8_0",), down="Q4_1")
    float4 = replace(quantized, gate=("MXFP4",), down="MXFP4", biases=True)
    table += [
        ("of one token", Routing(2), replace(quantized, tokens=1)),
        ("of eight bits", Routing(2), quantized),
        ("of four bits", Routing(3), replace(quantized, gate=("Q4_0",), biases=True)),
        ("of two formats", Routing(2), replace(quantized, inner=32, gate=("Q8_0", "Q4_1"))),
        ("of four-bit floats", Routing(4, activation="clamped_silu"), float4),
        ("of four-bit floats, one token", Routing(4), replace(float4, tokens=1)),
        ("of 256", Routing(8), Mixture(5, 32, 32, 256, ("Q8_0",), "Q8_0")),
        ("of halves", Routing(2), Mixture(40, 33, 32, 4, ("F16",), "BF16")),
    ]
    for name, routing, mixture in table:

        def call(
            ops: Ops,
            rng: np.random.Generator,
            routing: Routing = routing,
            mixture: Mixture = mixture,
        ) -> Outputs:
            return mixture.outputs(ops, rng, routing)

        exact = mixture.gate[0] in ("F32", "F16", "BF16")
        yield Case(f"experts {name}", "experts", call, EXACT if exact else ROUNDED_ACTIVATIONS)
