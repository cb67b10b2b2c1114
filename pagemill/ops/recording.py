"""Runs recordings: a model that is recorded once and run each step, and operations on numpy arrays
that are recorded and run at once.

Must not know: what an operation does, or which model is running.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from pagemill import _native
from pagemill.errors import EngineFailure
from pagemill.ops.interface import Array, Float32, Int32, Step
from pagemill.ops.lowering import lower
from pagemill.ops.recorder import Recorder, Rows, StepArray, Symbol, SymbolicStep

_Method = TypeVar("_Method", bound=Callable[..., Array])


class Backend(Protocol):
    """What a recording needs of the operations' owner."""

    native: Any

    def reach(self, positions: int) -> None:
        """Make every rotary table at least that long."""
        ...


class Recording:
    """A lowered program and what is needed to run it on a step."""

    def __init__(self, backend: Backend, recorder: Recorder, result: Symbol) -> None:
        self.backend = backend
        self.program = _native.Program(backend.native)
        result = result.dense()
        self.buffers = lower(recorder, self.program, result)
        self.out, self.first = self.buffers[result.base], result.offset
        self.width = result.width

    def run(self, step: Step) -> Float32:
        """The result (rows, width), good until the next run."""
        self._call(self.program.run, step)
        rows: Float32 = self.program.rows(self.out)[:, self.first : self.first + self.width]
        return rows

    def profile(self, step: Step) -> list[tuple[str, float]]:
        """Seconds of each kind of operation in a run."""
        seconds: list[tuple[str, float]] = self._call(self.program.profile, step)
        return seconds

    def _call(self, method: Callable[..., Any], step: Step) -> Any:
        self.backend.reach(int(step.kv_lens.max(initial=1)))
        try:
            return method(
                step.token_ids, step.positions, step.slots, step.row_starts, step.kv_lens,
                step.page_table, step.out_rows, step.page_size, step.token_types,
                step.state_slots,
            )  # fmt: skip
        except ValueError as error:
            raise EngineFailure(f"the step is not valid: {error}") from error


class Compiled:
    """A model as a callable of one native call; recorded when first called."""

    def __init__(self, backend: Backend, model: Callable[[Step, Array], Array]) -> None:
        self.backend = backend
        self.model = model
        self.kv: Array = None
        self.recording: Recording | None = None

    def __call__(self, step: Step, kv: Array) -> Array:
        return self._recorded(kv).run(step)

    def profile(self, step: Step, kv: Array) -> list[tuple[str, float]]:
        """Run it, and tell the seconds of each kind of operation."""
        return self._recorded(kv).profile(step)

    def _recorded(self, kv: Array) -> Recording:
        if self.recording is None or self.kv is not kv:
            recorder = Recorder()
            result = self.model(SymbolicStep(recorder), kv)  # type: ignore[arg-type]
            self.recording, self.kv = Recording(self.backend, recorder, result), kv
        return self.recording


def recorded(ids: str = "") -> Callable[[_Method], _Method]:
    """Decorates methods that record one operation on symbols: called with numpy arrays, such a
    method records it and runs it at once. `ids` names the step's array that an array of integers
    among the arguments stands for."""

    def decorate(method: _Method) -> _Method:
        @wraps(method)
        def call(backend: Any, *args: Any, **kwargs: Any) -> Array:
            if any(isinstance(arg, np.ndarray) for arg in args):
                return _at_once(lambda *new: method(backend, *new, **kwargs), backend, ids, args)
            return method(backend, *args, **kwargs)

        return cast(_Method, call)

    return decorate


def _at_once(
    record: Callable[..., Symbol], backend: Backend, ids: str, args: tuple[Any, ...]
) -> Float32:
    recorder, inputs, arguments = Recorder(), [], list(args)
    step: Step | None = None
    for i, arg in enumerate(args):
        if isinstance(arg, Step):
            step, arguments[i] = arg, SymbolicStep(recorder)
        elif isinstance(arg, np.ndarray) and np.issubdtype(arg.dtype, np.integer):
            step, arguments[i] = _bare_step(len(arg), **{ids: arg}), StepArray(recorder, ids)
        elif isinstance(arg, np.ndarray):
            arguments[i] = recorder.add("input", Rows.TOKENS, arg.shape[1:])
            inputs.append((arguments[i].node, arg))
    result = record(*arguments)
    step = step or _bare_step(len(inputs[0][1]))
    recording = Recording(backend, recorder, result)
    recording.program.reserve(len(step.token_ids), len(step.out_rows))
    for node, x in inputs:
        rows = recording.program.rows(recording.buffers[node])
        rows[:, : node.width] = x.reshape(len(x), -1)
    return np.array(recording.run(step)).reshape(-1, *result.shape[1:])


def _bare_step(tokens: int, token_ids: Int32 | None = None, positions: Int32 | None = None) -> Step:
    """A step for operations that need few of its fields: every token is a row of its own."""
    zeros = np.zeros(tokens, np.int32)
    at = zeros if positions is None else np.ascontiguousarray(positions, np.int32)
    return Step(
        token_ids=zeros if token_ids is None else np.ascontiguousarray(token_ids, np.int32),
        positions=at,
        slots=zeros,
        row_starts=np.arange(tokens + 1, dtype=np.int32),
        kv_lens=at + 1,
        page_table=np.zeros((tokens, 1), np.int32),
        out_rows=zeros[:0],
        page_size=16,
    )
