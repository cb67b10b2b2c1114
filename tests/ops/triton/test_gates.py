"""Gates against the reference."""

from typing import get_args

import numpy as np
import pytest
import torch

from pagemill.ops.interface import Activation
from pagemill.ops.reference import ReferenceOps
from pagemill.ops.triton.gates import act_mul, gated, sigmoid_mul
from tests.ops.case import normal

# exp(200) is inf, and 1 / (1 + inf) the sigmoid that is meant.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")


@pytest.mark.parametrize("kind", get_args(Activation))
def test_gates_agree_with_the_reference(kind: Activation) -> None:
    rng = np.random.default_rng(3)
    ops = ReferenceOps()
    for shape in [(1, 2), (3, 14), (2, 4200), (2, 3, 6)]:
        both = normal(rng, *shape) * 4
        both.flat[0] = -200  # exp overflows on the way
        got = act_mul(torch.from_numpy(both), kind)
        want = ops.act_mul(both, kind)
        np.testing.assert_allclose(got, want, 1e-5, 1e-6 * np.abs(want).max())
        gate, x = both, normal(rng, *shape)
        got = gated(torch.from_numpy(x), torch.from_numpy(gate), kind)
        want = ops.gated(x, gate, kind)
        np.testing.assert_allclose(got, want, 1e-5, 1e-6 * np.abs(want).max())


@pytest.mark.parametrize("gates", [1, 35])
def test_sigmoids_of_rows_and_of_numbers(gates: int) -> None:
    rng = np.random.default_rng(gates)
    x, gate = normal(rng, 3, 35), normal(rng, 3, gates) * 30
    got = sigmoid_mul(torch.from_numpy(x), torch.from_numpy(gate))
    np.testing.assert_allclose(got, ReferenceOps().sigmoid_mul(x, gate), 1e-5, 1e-7)


def test_halves_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    both = torch.from_numpy(normal(rng, 4, 64)).half()
    want = ReferenceOps().act_mul(both.float().numpy(), "silu")
    assert torch.equal(act_mul(both, "silu"), torch.from_numpy(want).half())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="activation 'swish'; there are silu, gelu"):
        gated(torch.zeros(1, 1), torch.zeros(1, 1), "swish")
