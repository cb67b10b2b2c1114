"""How long something takes on a device."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pagemill.ops.graphs import CudaRecorder

_LEAST, _MOST = 5, 500  # repeats
_TOGETHER = 5  # that are waited for at once
_CACHE_BYTES = 256 << 20  # more than the caches of any card hold
_WARM = 3


class Took(NamedTuple):
    """Seconds of one call. `note` says what is not as it should be."""

    seconds: float
    note: str = ""


class Clock:
    """Times calls, each with caches that hold nothing of what it reads."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self._seconds = device, seconds
        self._on_card = device.type == "cuda"
        size = _CACHE_BYTES if self._on_card else 1
        self._other = torch.empty(size, dtype=torch.uint8, device=device)

    def wait(self) -> None:
        """Until the device has done everything."""
        if self._on_card:
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def device_time(self, run: Callable[[], Tensor]) -> Took:
        """Of the device alone: kernels are captured once and replayed, since launching some takes
        longer than they do. The median of many."""
        with torch.inference_mode():
            if not self._on_card:
                return Took(self._repeated(run))
            replay, note = self._captured(run)
            return Took(self._between_events(replay), note)

    def wall_time(self, run: Callable[[], Any]) -> Took:
        """As somebody sees it who waits for the result."""
        with torch.inference_mode():
            return Took(self._repeated(run))

    def _captured(self, run: Callable[[], Tensor]) -> tuple[Callable[[], Any], str]:
        run()  # what is wrong with it is raised here
        try:
            return CudaRecorder(self.device).record(run)[0], ""
        except RuntimeError as error:
            self.wait()
            return run, f"launched, not captured: {first_line(error)}"

    def _between_events(self, replay: Callable[[], Any]) -> float:
        for _ in range(_WARM):
            replay()
        self.wait()
        times: list[float] = []
        began = perf_counter()
        while self._goes_on(len(times), began):
            pairs = []
            for _ in range(_TOGETHER):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self._other.zero_()  # and while that lasts the rest is queued
                start.record()
                replay()
                end.record()
                pairs.append((start, end))
            self.wait()
            times += [start.elapsed_time(end) / 1e3 for start, end in pairs]
        return median(times)

    def _repeated(self, run: Callable[[], Any]) -> float:
        for _ in range(_WARM):
            run()
        times: list[float] = []
        began = perf_counter()
        while self._goes_on(len(times), began):
            self.wait()
            start = perf_counter()
            run()
            self.wait()
            times.append(perf_counter() - start)
        return median(times)

    def _goes_on(self, repeats: int, began: float) -> bool:
        return repeats < _LEAST or (repeats < _MOST and perf_counter() - began < self._seconds)


def first_line(error: BaseException) -> str:
    """Of its message, with its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
