"""Getting a device ready, or saying in one sentence why it cannot be used.

Must not know: what will be computed there.
"""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import Any

import torch

from pagemill.errors import Unsupported

DTYPES = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)
_BFLOAT16_FROM = (8, 0)  # older NVIDIA cards have no bfloat16 of their own


def prepare(device: str, dtype: str, threads: int) -> tuple[str, Any]:
    """The device as torch calls it, and what to compute in there: `dtype`, or for "auto" what
    suits the device. This process uses it, and so many threads, from now on."""
    torch.set_num_threads(threads)
    if device.startswith("cuda"):
        _use_gpu(device)
    elif device == "mps" and not torch.backends.mps.is_available():
        raise Unsupported(f"device is mps; torch {torch.__version__} cannot use it on this machine")
    return device, DTYPES[_suitable(device) if dtype == "auto" else dtype]


def describe(device: torch.device, dtype: Any) -> str:
    """For people: "NVIDIA H200, bfloat16"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"{name}, {str(dtype).removeprefix('torch.')}"


def _use_gpu(device: str) -> None:
    # Cards are numbered as their driver lists them, which is how they were looked at before.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip or "no GPU"
        raise Unsupported(
            f"device is {device}; torch {torch.__version__} (built for {built}) finds no GPU that "
            "it can use: `pagemill doctor` says what is here, --backend cpu needs none"
        )
    index = int(device.partition(":")[2] or torch.cuda.current_device())
    if index >= torch.cuda.device_count():
        raise Unsupported(f"device is {device}; torch finds {torch.cuda.device_count()} GPU(s)")
    try:
        torch.cuda.set_device(index)
        torch.zeros(1, device=device).item()
    except RuntimeError as error:
        raise Unsupported(f"device {device} does not answer: {error}") from error


def _suitable(device: str) -> str:
    if device.startswith("cuda"):
        # Of AMD's every card that torch is built for has bfloat16.
        new = torch.version.hip or torch.cuda.get_device_capability() >= _BFLOAT16_FROM
        return "bfloat16" if new else "float16"
    return "float16" if device == "mps" else "float32"
