"""Steps that run while the next one is planned: what they chose stays on the device, where the next
one finds it, and comes to the host in its own time. Must not know: how ids are chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST_ROWS = 4096  # of a step


class Choices:
    """The ids that the last step chose, at an address that stays: captured steps read it too."""

    def __init__(self, device: torch.device) -> None:
        self._ids = torch.zeros(MOST_ROWS, dtype=torch.int32, device=device)

    def keep(self, ids: Tensor) -> None:
        """(S,), as the next step's `token_ids` will count them."""
        self._ids[: len(ids)].copy_(ids)

    def first(self, count: int) -> Tensor:
        """Those of the first rows. Whoever chose elsewhere may write them."""
        return self._ids[:count]

    def fill(self, token_ids: Tensor) -> Tensor:
        """`Step.token_ids` with those in flight looked up: -1 - s is the choice of row s."""
        chosen = self._ids[(-1 - token_ids).clamp(min=0)].clamp(min=0)
        return torch.where(token_ids < 0, chosen, token_ids)


def to_host(there: Tensor) -> Callable[[], Tensor]:
    """Begin to copy; calling the result waits for it, and for all that was asked for before."""
    if there.device.type != "cuda":
        here = there.cpu()
        return lambda: here
    here = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
    here.copy_(there, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> Tensor:
        done.synchronize()
        return here

    return wait
