"""The shared table of cases on torch's own calls, in float32."""

import pytest
import torch

from pagemill.ops.plain.ops import PlainOps
from tests.ops.case import Case, check
from tests.ops.cases import all_cases
from tests.ops.plain.adapter import OnArrays


class OnCodes(PlainOps):
    """Quantized matrices in the layouts of kernels, and no kernels."""

    keeps_codes = True


@pytest.fixture(scope="module")
def ops() -> OnArrays:
    torch.set_num_threads(1)
    return OnArrays(PlainOps("cpu", torch.float32))


@pytest.fixture(scope="module")
def on_codes() -> OnArrays:
    return OnArrays(OnCodes("cpu", torch.float32))


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_it_agrees_with_the_reference(case: Case, ops: OnArrays) -> None:
    check(case, ops)


@pytest.mark.parametrize(
    "case",
    [case for case in all_cases() if case.op in ("embed", "linear", "linear_heads", "experts")],
    ids=lambda case: case.name,
)
def test_it_agrees_on_codes(case: Case, on_codes: OnArrays) -> None:
    check(case, on_codes)
