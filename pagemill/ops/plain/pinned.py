"""Memory of the host that a GPU reads and writes by itself.

It is whole pages, which are registered with the driver. Torch's own pinned memory is rounded up to
a power of two, which of many gigabytes nobody has planned for; and tensors from elsewhere may share
a page, which is not registered twice. Must not know: what is kept there.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor


def pinned(nbytes: int, device: torch.device) -> Tensor:
    """So many bytes, for as long as the process lives; where there is no GPU any memory will do."""
    if device.type != "cuda":
        return torch.empty(nbytes, dtype=torch.uint8)
    pages = mmap.mmap(-1, max(1, nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = torch.frombuffer(pages, dtype=torch.uint8)
    # ROCm answers to the same name.
    status = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
    torch.cuda.check_error(int(status))
    return memory[:nbytes]
