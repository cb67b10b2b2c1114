"""GPUs as drivers show them: a missing driver, library or torch is no error."""

import ctypes
from pathlib import Path
from typing import Any

import pytest

from pagemill import gpus
from pagemill.types import Gpu

GIB = 1 << 30
CARDS = (Gpu("A", 80 * GIB, 79 * GIB, (9, 0)), Gpu("B", 24 * GIB, 20 * GIB, (8, 9)))


class Driver:
    """NVIDIA's management library, as far as we call it."""

    def __init__(self, cards: tuple[Gpu, ...], lost: int = -1) -> None:
        self.cards, self.lost, self.open = cards, lost, 0

    def nvmlInit_v2(self) -> int:
        self.open += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = index + 1
        return 15 if index == self.lost else 0  # "GPU is lost"

    def card(self, handle: Any) -> Gpu:
        return self.cards[handle.value - 1]

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.total = self.card(handle).memory_bytes
        memory._obj.free = self.card(handle).available_bytes
        return 0

    def nvmlDeviceGetName(self, handle: Any, name: Any, size: int) -> int:
        name.value = self.card(handle).name.encode()
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = self.card(handle).capability
        return 0


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A machine with two NVIDIA cards, and no variable that hides one."""
    made = Driver(CARDS)
    monkeypatch.setattr(gpus, "_NVIDIA", (tmp_path,))
    monkeypatch.setattr(gpus, "_AMD", tmp_path / "kfd")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: made)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return made


def built_for(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str) -> None:
    """An installed torch."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise ImportError('loaded')\n")
    (folder / "torch" / "version.py").write_text(version)
    monkeypatch.syspath_prepend(str(folder))


def test_cards_are_described(driver: Driver) -> None:
    assert gpus.seen() == CARDS
    assert driver.open == 0


def test_a_card_that_does_not_answer_is_left_out(driver: Driver) -> None:
    driver.lost = 0
    assert gpus.seen() == CARDS[1:]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", CARDS[1:]),
        ("1,0", CARDS[::-1]),
        ("", ()),
        ("-1", ()),
        ("0,7,1", CARDS[:1]),
        ("GPU-1234", CARDS[:1]),
    ],
)
def test_a_variable_hides_cards(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str, expected: tuple[Gpu, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.seen() == expected


def test_no_driver_no_cards(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpus.seen() == ()
    monkeypatch.setattr(gpus, "_NVIDIA", (tmp_path / "nvidia0",))
    assert gpus.seen() == () and not gpus.usable()


def test_amd_cards_are_read_from_the_kernel(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_for(monkeypatch, tmp_path, "cuda: Optional[str] = None\nhip: Optional[str] = '6.2'\n")
    for index, used in enumerate((GIB, 3 * GIB)):
        folder = tmp_path / f"card{index}" / "device"
        folder.mkdir(parents=True)
        (folder / "mem_info_vram_total").write_text(f"{16 * GIB}\n")
        (folder / "mem_info_vram_used").write_text(f"{used}\n")
    (tmp_path / "card2" / "device").mkdir(parents=True)  # drives a screen only
    monkeypatch.setattr(gpus, "_AMD", tmp_path)
    monkeypatch.setattr(gpus, "_DRM", tmp_path)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    assert [gpu.available_bytes // GIB for gpu in gpus.seen()] == [15, 13]
    assert gpus.usable()


@pytest.mark.parametrize(
    ("version", "build"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "cuda"),
        ("cuda = None\nhip = '6.2.41133'\n", "rocm"),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n", "cpu"),
    ],
)
def test_what_torch_was_built_for_is_known_without_loading_it(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, build: str
) -> None:
    built_for(monkeypatch, tmp_path, version)
    assert gpus.torch_build() == build
    assert gpus.usable() == (build == "cuda")  # the cards are NVIDIA's
