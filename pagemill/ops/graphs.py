"""Decode steps captured once and replayed: one launch instead of a thousand.

One manager owns all of it. For some numbers of rows it runs the model once while a recorder takes
note of every kernel, reading its step from tensors whose addresses stay; a later step of at most
that many rows is copied into them, padded, and replayed. What has no graph (rows of several tokens,
more rows than the largest size, another cache) runs as it is called, and so does everything when
capturing fails.

A padded row has no history and the slot -1: kernels write nothing for it that anybody reads.

Must not know: which model is captured, who is in a step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pagemill.ops.interface import Array, Int32, Step
from pagemill.ops.plain.step import DeviceStep, decode_group

_PADDED_WITH_0, _COLUMNS = 3, 6  # token ids, positions, lengths; slots and two state slots: -1

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """What captures kernels: `CudaRecorder`, or a fake."""

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Rehearse `run`, then capture it. Gives what replays it, and the tensor that it fills."""
        ...


class CudaRecorder:
    """CUDA graphs in one pool of memory. ROCm answers to the same names."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = torch.cuda.graph_pool_handle()
        # One for all: libraries keep scratch memory, up to 32 MiB, for each stream they have seen.
        self._stream: Any = torch.cuda.Stream(device)

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        current, graph = torch.cuda.current_stream(self._device), torch.cuda.CUDAGraph()
        self._stream.wait_stream(current)
        # Around both: a capture that fails would leave its stream the current one.
        with torch.cuda.stream(self._stream):
            # A rehearsal compiles kernels and makes libraries' handles: neither can be captured.
            run()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = run()
        current.wait_stream(self._stream)
        return graph.replay, result


def decode_sizes(max_rows: int) -> list[int]:
    """Numbers of rows to capture: steps are padded to the next one."""
    sizes = [1, 2, 4, *range(8, min(max_rows, 256) + 1, 8), *range(288, max_rows + 1, 32)]
    return [size for size in sizes if size < max_rows] + [max_rows]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Tensors that captured steps read."""

    columns: Tensor  # (_COLUMNS * rows,) int32: for n rows, the first _COLUMNS * n of them
    pages: Tensor  # (rows, most pages of a row)

    def step(self, rows: int, max_len: int, page_size: int) -> DeviceStep:
        """The step of `rows` rows that these tensors hold."""
        used = self.columns[: _COLUMNS * rows]
        token_ids, positions, kv_lens, slots = used[: 4 * rows].view(4, rows)
        order = torch.arange(rows + 1, dtype=torch.int32, device=used.device)
        return DeviceStep(
            token_ids=token_ids,
            positions=positions,
            slots=slots,
            row_starts=order,
            kv_lens=kv_lens,
            page_table=self.pages[:rows],
            out_rows=order[:rows],
            page_size=page_size,
            state_slots=used[4 * rows :].view(rows, 2),
            max_kv_len=max_len,
            max_take=1,
            num_rows=rows,
            groups=(decode_group(rows, max_len, used.device),),
        )

    def fill(self, step: Step, rows: int) -> None:
        """Copy a step in, padded to `rows`."""
        count, width = step.page_table.shape
        host = torch.empty(
            _COLUMNS * rows + count * width,
            dtype=torch.int32,
            pin_memory=self.columns.device.type == "cuda",
        )
        numbers = host.numpy()
        _lay_out(step, numbers[: _COLUMNS * rows], rows)
        numbers[_COLUMNS * rows :] = step.page_table.reshape(-1)
        there = host.to(self.columns.device, non_blocking=True)
        self.columns[: _COLUMNS * rows].copy_(there[: _COLUMNS * rows])
        self.pages[:count, :width].copy_(there[_COLUMNS * rows :].view(count, width))


def _lay_out(step: Step, into: Int32, rows: int) -> None:
    assert step.state_slots is not None
    count = len(step.kv_lens)
    columns = into.reshape(_COLUMNS, rows)
    columns[:_PADDED_WITH_0] = 0
    columns[_PADDED_WITH_0:] = -1
    for column, values in zip(
        columns, (step.token_ids, step.positions, step.kv_lens, step.slots), strict=False
    ):
        column[:count] = values
    into[4 * rows :].reshape(rows, 2)[:count] = step.state_slots


class DecodeGraphs:
    """A compiled model, called with numpy steps: replays what it has captured, runs the rest."""

    def __init__(
        self,
        run: Callable[[Step, Array], Tensor],
        device: torch.device,
        recorder: Callable[[torch.device], Recorder] | None = None,
    ) -> None:
        self._run, self._device = run, device
        self._recorder = recorder or (CudaRecorder if device.type == "cuda" else None)
        self._replays: dict[int, Callable[[], None]] = {}  # by number of rows, ascending
        self._kv: Array = None
        self._inputs: _Inputs | None = None
        self._result: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """What is captured."""
        return tuple(self._replays)

    def capture(self, kv: Array, max_rows: int, max_len: int, page_size: int) -> None:
        """Capture decode steps of up to `max_rows` rows and sequences of up to `max_len` tokens
        over this cache. Without a recorder, or when it fails, steps stay eager."""
        if self._recorder is None:
            return
        started = time.monotonic()
        width = -(-max_len // page_size)
        self._inputs = _Inputs(
            columns=self._numbers(_COLUMNS * max_rows), pages=self._numbers(max_rows, width)
        )
        empty = _empty_step(page_size)
        replays = {}
        try:
            recorder = self._recorder(self._device)
            for rows in reversed(decode_sizes(max_rows)):  # the largest asks the pool for most
                with torch.inference_mode():
                    self._inputs.fill(empty, rows)
                    step = self._inputs.step(rows, max_len, page_size)
                    replays[rows] = self._record(recorder, step, kv)
        except Exception as error:  # a boundary: whatever capturing raises, eager steps remain
            _log.warning("decode steps are not captured (%s); they run, more slowly", error)
            self._inputs = self._result = None
            return
        self._kv, self._replays = kv, dict(sorted(replays.items()))
        _log.info(
            "%d sizes of decode steps captured in %.1f s", len(replays), time.monotonic() - started
        )

    def __call__(self, step: Step, kv: Array) -> Tensor:
        """Logits of the sampled rows. The next call may overwrite them on the device."""
        rows = self._size_of(step) if kv is self._kv else 0
        if not rows:
            return self._run(step, kv)
        assert self._inputs is not None and self._result is not None
        with torch.inference_mode():
            self._inputs.fill(step, rows)
            self._replays[rows]()
        return self._result[: len(step.kv_lens)]

    def _size_of(self, step: Step) -> int:
        """The rows of the graph for this step; 0: it has none."""
        count = len(step.kv_lens)
        one_each = count == len(step.token_ids) == len(step.out_rows)
        if not one_each or step.token_types is not None or step.state_slots is None:
            return 0
        return next((size for size in self._replays if size >= count), 0)

    def _record(self, recorder: Recorder, step: DeviceStep, kv: Array) -> Callable[[], None]:
        if self._result is None:
            replay, self._result = recorder.record(lambda: self._run(step, kv))
            return replay
        # All sizes answer in one tensor: logits of a large vocabulary are large.
        into = self._result[: step.num_rows]
        replay, _ = recorder.record(lambda: into.copy_(self._run(step, kv)))
        return replay

    def _numbers(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=self._device)


def _empty_step(page_size: int) -> Step:
    """Nobody's step: all of its rows are padding."""
    none = np.empty(0, np.int32)
    return Step(
        token_ids=none,
        positions=none,
        slots=none,
        row_starts=np.zeros(1, np.int32),
        kv_lens=none,
        page_table=np.empty((0, 0), np.int32),
        out_rows=none,
        page_size=page_size,
        state_slots=np.empty((0, 2), np.int32),
    )
