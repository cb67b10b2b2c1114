"""Every kernel compiles for every card that it is meant for, and fits."""

import pytest

from tests.ops.triton.aot import SHARED_LIMIT, Compiled, compile_elsewhere, modules


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> dict[str, list[Compiled] | str]:
    """What comes of all modules that are asked for here."""
    here = [item for item in request.session.items if item.fspath == request.fspath]
    return compile_elsewhere([item.callspec.params["module"] for item in here])  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", modules())
def test_kernels_compile_for_cards_that_are_not_here(
    module: str, found: dict[str, list[Compiled] | str]
) -> None:
    compiled = found[module]
    assert not isinstance(compiled, str), compiled
    assert {one.arch for one in compiled} >= {90}
    for one in compiled:
        assert one.shared <= SHARED_LIMIT[one.arch], one
        assert one.may_spill or one.spilled == 0, one
