"""What a GPU says of its memory. Must not know: what it is for."""

from __future__ import annotations

from collections.abc import Callable

import torch


class CudaMemory:
    """`engine.fitting.DeviceMemory` of one GPU. ROCm answers to the same names."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def total(self) -> int:
        return int(torch.cuda.mem_get_info(self._device)[1])

    @property
    def free(self) -> int:
        """What torch keeps for later use counts as taken."""
        return int(torch.cuda.mem_get_info(self._device)[0])

    def peak(self, run: Callable[[], object]) -> int:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        kept = run()
        torch.cuda.synchronize(self._device)
        most = torch.cuda.max_memory_allocated(self._device)
        del kept
        return int(most - before)
