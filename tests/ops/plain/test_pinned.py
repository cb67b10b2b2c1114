"""Memory that a GPU reads by itself, of a driver that takes notes."""

import mmap
from types import SimpleNamespace

import pytest
import torch

from pagemill.ops.plain.pinned import pinned

CARD = torch.device("cuda", 0)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Where memory was registered, and how many bytes; a second time is an error there."""
    found: list[tuple[int, int]] = []

    def register(address: int, size: int, flags: int) -> int:
        pages = range(address // mmap.PAGESIZE, -(-(address + size) // mmap.PAGESIZE))
        taken = [range(at // mmap.PAGESIZE, -(-(at + of) // mmap.PAGESIZE)) for at, of in found]
        if any(page in other for page in (pages[0], pages[-1]) for other in taken):
            return 712  # already registered
        found.append((address, size))
        return 0

    def check(status: int) -> None:
        if status:
            raise RuntimeError(f"status {status}")

    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=register))
    monkeypatch.setattr(torch.cuda, "check_error", check)
    return found


def test_small_ones_share_no_page_and_large_ones_are_not_rounded_up(
    registered: list[tuple[int, int]],
) -> None:
    sizes = [64, 100, 5 << 20, 1, 0]
    made = [pinned(size, CARD) for size in sizes]
    assert [memory.nbytes for memory in made] == sizes
    assert [size for _, size in registered] == [64, 100, 5 << 20, 1, 1]
    assert all(address % mmap.PAGESIZE == 0 for address, _ in registered)
    for value, memory in enumerate(made):
        memory.fill_(value)
    assert [set(memory.tolist()) for memory in (made[0], made[1], made[3])] == [{0}, {1}, {3}]


def test_a_driver_that_refuses_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = SimpleNamespace(cudaHostRegister=lambda *of: 2)

    def check(status: int) -> None:
        raise RuntimeError(f"status {status}")

    monkeypatch.setattr(torch.cuda, "cudart", lambda: refusing)
    monkeypatch.setattr(torch.cuda, "check_error", check)
    with pytest.raises(RuntimeError, match="status 2"):
        pinned(10, CARD)


def test_elsewhere_any_memory_will_do() -> None:
    assert pinned(10, torch.device("cpu")).shape == (10,)
