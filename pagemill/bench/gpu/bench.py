"""What every part is given: the device, its limits, a clock, and how much time is left."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pagemill.bench.gpu.clock import Clock, Took, first_line
from pagemill.bench.gpu.found import Line, Row
from pagemill.bench.gpu.sizes import Sizes

_FLOAT8_FROM = (8, 9)  # compute capability


class Skip(Exception):
    """Something cannot be measured here, and that is no error."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a call does at least."""

    bytes: float  # read and written
    ops: float = 0.0  # a multiplication and an addition are two
    rate: str = "bf16"  # of the limits


@dataclass(frozen=True, slots=True)
class Limits:
    """What the card gave just before, a second; 0: not measured."""

    bytes: float = 0.0
    bf16: float = 0.0
    fp8: float = 0.0
    int8: float = 0.0
    launch_s: float = 0.0  # of one kernel that does nothing

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Limits:
        """From what the part `limits` found."""
        found: dict[str, float] = {}
        for row in rows:
            found[row.limit] = max(found.get(row.limit, 0.0), row.figure)
        return cls(
            bytes=1e9 * found.get("memory", 0.0),
            bf16=1e12 * found.get("bf16", 0.0),
            fp8=1e12 * found.get("fp8", 0.0),
            int8=1e12 * found.get("int8", 0.0),
            launch_s=1e-6 * found.get("launch", 0.0),
        )

    def bound(self, work: Work) -> tuple[float, str]:
        """The least seconds that it can take, and why; nothing where limits are not known."""
        name = work.rate if getattr(self, work.rate) else "bf16"
        rate: float = getattr(self, name)
        memory = work.bytes / self.bytes if self.bytes else 0.0
        compute = work.ops / rate if rate else 0.0
        return max((memory, "memory"), (compute, name), (self.launch_s, "launch"))


@dataclass(slots=True)
class Bench:
    """One part under way. `until` is the time of day at which it ends."""

    device: torch.device
    sizes: Sizes
    limits: Limits
    until: float
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.device, self.sizes.seconds)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()

    @property
    def on_card(self) -> bool:
        return bool(self.device.type == "cuda")

    @property
    def has_float8(self) -> bool:
        """Whether torch multiplies eight-bit floats there."""
        if not self.on_card:
            return False
        new = torch.cuda.get_device_capability(self.device) >= _FLOAT8_FROM
        return bool(new or torch.version.hip)

    def need(self, size: float) -> None:
        """Skip what does not fit."""
        if not self.on_card:
            return
        free, _ = torch.cuda.mem_get_info(self.device)
        if size > free:
            raise Skip(f"it needs {size / 1e9:.1f} GB, {free / 1e9:.1f} are free")

    def kernel(
        self,
        what: str,
        size: str,
        work: Work,
        ours: Callable[[], Tensor],
        torchs: Callable[[], Tensor] | None = None,
        note: str = "",
    ) -> Row:
        """A kernel beside its limit and beside torch's own call, which `note` names."""
        took = self.clock.device_time(ours)
        other: float | None = None
        if torchs is not None:
            try:
                other = self.clock.device_time(torchs).seconds
            except (RuntimeError, NotImplementedError) as error:  # not every build has every call
                note = f"{note}: {first_line(error)}"
        return self.row(what, size, took, work, other, note)

    def row(
        self, what: str, size: str, took: Took, work: Work, other: float | None, note: str
    ) -> Row:
        """Microseconds beside the limit."""
        least, limit = self.limits.bound(work)
        return Row(
            what=what,
            size=size,
            figure=1e6 * took.seconds,
            unit="us",
            share=100 * least / took.seconds if least else None,
            limit=limit if least else "",
            beside=None if other is None else other / took.seconds,
            note="; ".join(filter(None, [note, took.note])),
        )


@dataclass(frozen=True, slots=True)
class Task:
    """Something to measure. One that breaks leaves the others as they are."""

    name: str
    run: Callable[[], Iterable[Row | Line]]


def carry_out(part: str, tasks: Iterable[Task], bench: Bench) -> Iterator[Line]:
    """What tasks find, until the time is up."""
    late: list[str] = []
    for task in tasks:
        if bench.left <= 0:
            late.append(task.name)
            continue
        try:
            for found in task.run():
                yield Line(part, row=found) if isinstance(found, Row) else found
                if bench.left <= 0:
                    late.append(f"the rest of {task.name}")
                    break
        except Skip as reason:
            yield Line(part, skipped=f"{task.name}: {reason}")
        except torch.OutOfMemoryError as error:
            yield Line(part, skipped=f"{task.name}: {first_line(error)}")
        except Exception as error:  # a boundary: whatever broke, the others are measured
            yield Line(part, failed=f"{task.name}: {first_line(error)}")
        clean(bench)
    if late:
        yield Line(part, skipped=f"its time was up before: {', '.join(late)}")


def clean(bench: Bench) -> None:
    """Give memory back to the device."""
    gc.collect()
    if bench.on_card:
        torch.cuda.empty_cache()
