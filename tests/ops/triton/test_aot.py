"""Every kernel compiles for the card that it is meant for, and fits.

Other cards take as long again each: `python -m tests.ops.triton.aot` compiles for all of them.
"""

import pytest

from tests.ops.triton.aot import SHARED_LIMIT, compile_elsewhere, modules

HOPPER = 90


@pytest.mark.parametrize("module", modules())
def test_kernels_compile_for_a_card_that_is_not_here(module: str) -> None:
    compiled = compile_elsewhere(module, [HOPPER])
    assert compiled
    for one in compiled:
        assert one.shared <= SHARED_LIMIT[one.arch], one
        assert one.may_spill or one.spilled == 0, one
