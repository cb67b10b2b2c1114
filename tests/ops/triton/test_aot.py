"""Every kernel compiles for every card that it is meant for, and fits."""

import pytest

from tests.ops.triton.aot import SHARED_LIMIT, compile_elsewhere, modules


@pytest.mark.parametrize("module", modules())
def test_kernels_compile_for_cards_that_are_not_here(module: str) -> None:
    compiled = compile_elsewhere(module)
    assert {one.arch for one in compiled} >= {90}
    for one in compiled:
        assert one.shared <= SHARED_LIMIT[one.arch], one
        assert one.may_spill or one.spilled == 0, one
