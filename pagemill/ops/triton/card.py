"""What of a card decides how kernels are cut. Must not know: kernels."""

from __future__ import annotations

import subprocess
from functools import cache
from typing import NamedTuple

import torch
import triton

from pagemill.errors import Unsupported

_OLDEST = (8, 0)  # compute capability: Triton supports no card before Ampere
_HOPPER, _SMALL_BLACKWELL = (9, 0), (12, 0)


class Card(NamedTuple):
    """A graphics processor as one program of a kernel sees it."""

    multiprocessors: int
    shared: int  # bytes of shared memory that a program may ask for
    wide: bool  # multiplies 64 rows at least, by what lies in shared memory


LARGE = Card(132, 227 << 10, wide=True)  # Hopper, and Blackwell of data centres
# Ampere and Ada but for the A100, and Blackwell but for that of data centres.
SMALL = Card(128, 99 << 10, wide=False)
# Where kernels are interpreted. A few multiprocessors, so that long rows are split there, too.
_INTERPRETER = Card(4, LARGE.shared, wide=True)


@cache
def card_of(device: torch.device) -> Card:
    """The card that a device is."""
    if device.type != "cuda":
        return _INTERPRETER
    said = torch.cuda.get_device_properties(device)
    wide = torch.version.hip is None and _HOPPER <= (said.major, said.minor) < _SMALL_BLACKWELL
    # Where a program may ask for more than it is given, that is told apart.
    shared = getattr(said, "shared_memory_per_block_optin", said.shared_memory_per_block)
    return Card(int(said.multi_processor_count), int(shared), wide)


def runs_kernels(device: torch.device) -> bool:
    """Whether kernels can be launched there. Unsupported where only Triton's own needs are missing:
    a backend that were silently many times slower would help nobody."""
    if device.type != "cuda":
        return False
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    try:
        triton.runtime.driver.active.utils  # noqa: B018 - compiles what calls the driver
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:
        raise Unsupported(
            f"Triton cannot be used here ({str(error)[:200]}): it needs a C compiler, Python's "
            "headers (of Debian gcc and python3-dev) and a folder to write to (TRITON_CACHE_DIR); "
            f"--backend torch --device {device} computes without it, slower"
        ) from error
    return True
