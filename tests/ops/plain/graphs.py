"""A recorder without a device: replaying is running again on the same tensors."""

from collections.abc import Callable

import torch
from torch import Tensor


class FakeRecorder:
    """Remembers what it was asked to record. `fails_at`: the call that raises."""

    def __init__(self, device: torch.device, fails_at: int = 0) -> None:
        self.rehearsed = 0
        self.replayed = 0
        self._fails_at = fails_at

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.rehearsed += 1
        if self.rehearsed == self._fails_at:
            raise RuntimeError("operation not permitted when stream is capturing")
        run()
        result = run()

        def replay() -> None:
            self.replayed += 1
            result.copy_(run())

        return replay, result
