"""What ranks do together: sums, joins of rows, and arrays that go from stage to stage.

Over torch.distributed: NCCL between GPUs, gloo between processes on CPUs, where numpy's arrays are
torch's without a copy. Ranks find each other through a file; what they listen on is the loopback
interface. Must not know: what is summed, and for whom.
"""

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist

from pagemill.errors import EngineFailure
from pagemill.ops.interface import Array
from pagemill.parallel.seat import Seat

# Longer than any step: whoever is stuck is found by the supervisor of rank 0.
_PATIENCE: Final = timedelta(hours=1)
_LOOPBACK: Final = "lo0" if sys.platform == "darwin" else "lo"


class RankLost(EngineFailure):
    """Another rank left while all did something together."""


class Group:
    """All ranks, as one of them sees them. Every rank calls the same methods in the same order.

    `device`: "" for numpy's arrays, else where torch's are; `dtype` is that of activations.
    """

    def __init__(
        self, seat: Seat, meeting: str, device: str = "", dtype: torch.dtype = torch.float32
    ) -> None:
        """Waits for the others; `meeting` is a file that all of them can write, new for each group.
        Raises RankLost."""
        self.seat, self.device, self.dtype = seat, device, dtype
        for library in ("GLOO", "NCCL"):  # no port is open to others than this machine
            os.environ[f"{library}_SOCKET_IFNAME"] = _LOOPBACK
        # Who is stuck is found by the supervisor of rank 0. NCCL's own watch ends the process, and
        # asks the file in which ranks met, which is gone by then.
        os.environ.setdefault("TORCH_NCCL_ENABLE_MONITORING", "0")
        self._tensor: Any = None  # the ranks of our stage
        self._together(lambda: self._join(meeting))
        self._shake_hands()

    def _join(self, meeting: str) -> None:
        seat = self.seat
        store = dist.FileStore(meeting, seat.ranks)
        backend = "nccl" if self.device.startswith("cuda") else "gloo"
        dist.init_process_group(
            backend, store=store, rank=seat.rank, world_size=seat.ranks, timeout=_PATIENCE
        )
        stages = [
            dist.new_group(list(range(first, first + seat.tensor)), timeout=_PATIENCE)
            for first in range(0, seat.ranks, seat.tensor)
        ]
        self._tensor = stages[seat.stage]

    def _shake_hands(self) -> None:
        """Connections that are made when they are first used; the file is needed until then."""
        seat, nothing = self.seat, self.native(torch.zeros((1, 1), device=self.device or "cpu"))
        self.sum(nothing)
        if not seat.is_first:
            self.receive((1, 1), seat.rank - seat.tensor, torch.float32)
        if not seat.is_last:
            self.send(nothing, seat.rank + seat.tensor)
        if seat.pipeline > 1 and not seat.part:
            if seat.is_last:
                self.send(nothing, 0)
            elif seat.is_first:
                self.receive((1, 1), seat.ranks - seat.tensor, torch.float32)

    def close(self) -> None:
        dist.destroy_process_group()

    # Within a stage.

    def sum(self, x: Array) -> Array:
        """Of all parts of a layer; x may be overwritten."""
        if self.seat.tensor == 1:
            return x
        ours = self.tensor(x)
        self._together(lambda: dist.all_reduce(ours, group=self._tensor))
        return self.native(ours)

    def join(self, x: Array, width: int) -> Array:
        """(S, N) columns of each part side by side -> (S, width). The parts' widths differ by one
        at most, as those of `Share` do."""
        parts = self.seat.tensor
        ours = self.tensor(x)
        widest = -(-width // parts)
        if ours.shape[1] < widest:
            ours = torch.nn.functional.pad(ours, (0, widest - ours.shape[1]))
        pieces = list(ours.new_empty((parts, *ours.shape)))
        self._together(lambda: dist.all_gather(pieces, ours, group=self._tensor))
        sizes = [width * (i + 1) // parts - width * i // parts for i in range(parts)]
        return self.native(
            torch.cat([piece[:, :size] for piece, size in zip(pieces, sizes, strict=True)], dim=1)
        )

    def share(self, x: Array) -> None:
        """Let all parts have what the first one has in x."""
        if self.seat.tensor > 1:
            first = self.seat.rank - self.seat.part
            self._together(lambda: dist.broadcast(x, first, group=self._tensor))

    # Between stages.

    def send(self, x: Array, rank: int) -> None:
        ours = self.tensor(x)
        self._together(lambda: dist.send(ours, rank))

    def receive(self, shape: tuple[int, ...], rank: int, dtype: torch.dtype | None = None) -> Array:
        """An array of that shape from that rank, of activations unless said."""
        theirs = torch.empty(shape, dtype=dtype or self.dtype, device=self.device or "cpu")
        self._together(lambda: dist.recv(theirs, rank))
        return self.native(theirs)

    # Arrays.

    def tensor(self, x: Array) -> torch.Tensor:
        """An array of ours as one of torch's, in the same memory where that has no gaps."""
        if isinstance(x, torch.Tensor):
            return x.contiguous()
        return torch.from_numpy(np.ascontiguousarray(x))

    def native(self, x: torch.Tensor) -> Array:
        """The reverse."""
        return x if self.device else x.numpy()

    def _together(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (RuntimeError, ValueError) as error:  # torch's, of connections and of devices
            raise RankLost(f"ranks cannot go on together: {str(error)[:200]}") from error
