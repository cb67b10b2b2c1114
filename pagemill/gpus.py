"""What graphics processors this machine lets us use, and whether torch could use them.

Asks the driver's own library, or the kernel's files: torch takes seconds and a gigabyte, which the
HTTP side must not spend. What is seen here is an offer; the engine process finds out. Standard
library only. Must not know: what is computed there.
"""

import ctypes
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pagemill.types import Gpu

_NVIDIA = (Path("/dev/nvidia0"), Path("/proc/driver/nvidia/version"), Path("/dev/dxg"))
_AMD = Path("/dev/kfd")
_DRM = Path("/sys/class/drm")
_NVML = "libnvidia-ml.so.1"
_NAME_BYTES = 96


def torch_build() -> str:
    """What the installed torch was built for: "cuda", "rocm" or "cpu"; "" where there is none. It
    is not loaded for that."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    except OSError:
        return "cpu"
    built = dict(re.findall(r"^(cuda|hip)\b[^=\n]*= *'([^']+)'", text, re.MULTILINE))
    return "cuda" if "cuda" in built else "rocm" if "hip" in built else "cpu"


def usable() -> bool:
    """Whether a backend on a GPU can be expected to run: a card, its driver, and torch for it."""
    build = torch_build()
    return bool(seen()) and (build == "cuda" or (build == "rocm" and _AMD.exists()))


def seen() -> tuple[Gpu, ...]:
    """The cards that this process may use, in the driver's order. Empty where none answers."""
    if _AMD.exists() and torch_build() == "rocm":
        return _allowed(tuple(_amd()), os.environ.get("HIP_VISIBLE_DEVICES"))
    if any(path.exists() for path in _NVIDIA):
        return _allowed(tuple(_nvidia()), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return ()


def _allowed(cards: tuple[Gpu, ...], visible: str | None) -> tuple[Gpu, ...]:
    """Those that the variable of the driver lets through. Its numbers are indices; whoever writes
    identifiers there is taken to mean as many of the first."""
    if visible is None:
        return cards
    words = [word.strip() for word in visible.split(",") if word.strip()]
    if not all(word.lstrip("-").isdigit() for word in words):
        return cards[: len(words)]
    allowed = []
    for index in map(int, words):
        if not 0 <= index < len(cards):
            break  # what follows a number that is none is hidden too
        allowed.append(cards[index])
    return tuple(allowed)


class _Memory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def _nvidia() -> Iterator[Gpu]:
    """Cards as NVIDIA's management library lists them, which comes with the driver."""
    try:
        library = ctypes.CDLL(_NVML)
    except OSError:
        return
    if library.nvmlInit_v2():
        return
    try:
        count = ctypes.c_uint()
        if library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return
        for index in range(count.value):
            card = _nvidia_card(library, index)
            if card is not None:
                yield card
    finally:
        library.nvmlShutdown()


def _nvidia_card(library: ctypes.CDLL, index: int) -> Gpu | None:
    handle, memory = ctypes.c_void_p(), _Memory()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = (
        library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        or library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        or library.nvmlDeviceGetName(handle, name, _NAME_BYTES)
    )
    if failed:
        return None
    library.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    capability = (major.value, minor.value)
    return Gpu(name.value.decode("utf-8", "replace"), memory.total, memory.free, capability)


def _amd() -> Iterator[Gpu]:
    """Cards as the kernel's driver shows them."""
    for folder in sorted(_DRM.glob("card[0-9]*/device")):
        total, used = (_number(folder / f"mem_info_vram_{what}") for what in ("total", "used"))
        if total is not None and used is not None:
            try:
                name = (folder / "product_name").read_text().strip()
            except OSError:
                name = ""
            yield Gpu(name or "AMD GPU", total, max(0, total - used))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
