"""Whether the kernels are right on this card: the tests' table of cases against the reference.

The table is not part of the package; it is there where this runs from a checkout.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import pagemill
from pagemill.bench.gpu.bench import Bench, Skip, Task
from pagemill.bench.gpu.clock import first_line
from pagemill.bench.gpu.found import Line, Row
from pagemill.ops.cuda import CudaOps
from pagemill.ops.reference import ReferenceOps

PART = "agree"
_DTYPES = (torch.float32, torch.bfloat16)
# Of the largest magnitude: the reference gets the rounded inputs, results and what lies between are
# rounded once more each.
_BFLOAT16_TOLERANCE = 2e-2
_ALONE = ("vector", "upload")  # what they take stays as it is
_TINY_CASES = 40


class _Rounded:
    """The reference, of inputs rounded to bfloat16: what a backend gets that computes in it. What
    sequences keep is written in place, and stays as it is."""

    def __init__(self) -> None:
        self._ops = ReferenceOps()
        self._kept: list[NDArray[Any]] = []

    def new_kv(self, *sizes: Any) -> NDArray[Any]:
        return self._keep(self._ops.new_kv(*sizes))

    def new_state(self, *sizes: int) -> NDArray[Any]:
        return self._keep(self._ops.new_state(*sizes))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ops, name)
        if not callable(method) or name in _ALONE:
            return method
        return lambda *args, **kwargs: method(*map(self._rounded, args), **kwargs)

    def _keep(self, made: NDArray[Any]) -> NDArray[Any]:
        self._kept.append(made)
        return made

    def _rounded(self, x: Any) -> Any:
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            return x
        if any(np.may_share_memory(x, kept) for kept in self._kept):
            return x
        return torch.from_numpy(np.ascontiguousarray(x)).bfloat16().float().numpy()


def tasks(bench: Bench) -> Iterator[Task]:
    """One for each type; cases of all operations in turns, so that each is reached."""
    yield Task("the shared table of cases", partial(_all, bench))


def _all(bench: Bench) -> Iterator[Row | Line]:
    root = Path(pagemill.__file__).parent.parent
    if not (root / "tests" / "ops" / "cases.py").is_file():
        raise Skip("the table of cases is part of a checkout, and this is an installed package")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    cases = importlib.import_module("tests.ops.cases").all_cases()
    on_arrays = importlib.import_module("tests.ops.plain.adapter").OnArrays
    ordered = _in_turns(cases)
    if bench.sizes.copied_bytes < 1 << 20:
        ordered = ordered[:_TINY_CASES]
    backends = {dtype: on_arrays(CudaOps(str(bench.device), dtype)) for dtype in _DTYPES}
    passed = dict.fromkeys(_DTYPES, 0)
    tried = 0
    for case in ordered:
        if bench.left <= 0:
            break
        tried += 1
        for dtype, ops in backends.items():
            wrong = _difference(case, ops, dtype)
            passed[dtype] += not wrong
            if wrong:
                yield Line(PART, failed=f"{case.name}, {_name(dtype)}: {wrong}")
        _still_there(bench, case.name)
    for dtype, count in passed.items():
        size = f"{tried} of {len(cases)} cases"
        yield Row(f"agrees with the reference, {_name(dtype)}", size, count, "passed")


def _in_turns(cases: Sequence[Any]) -> list[Any]:
    """The first case of each operation, then the second of each, and so on."""
    by_op: dict[str, list[Any]] = {}
    for case in cases:
        by_op.setdefault(case.op, []).append(case)
    return [case for case in chain(*zip_longest(*by_op.values())) if case is not None]


def _difference(case: Any, ops: Any, dtype: torch.dtype) -> str:
    """How a backend's results differ by more than they may; "": they do not."""
    exact = dtype == torch.float32
    try:
        found = case.outputs(ops)
        wanted = case.outputs(ReferenceOps() if exact else _Rounded())
    except Exception as error:  # a boundary: whatever breaks, other cases are tried
        return first_line(error)
    tolerance = case.tolerance if exact else max(case.tolerance, _BFLOAT16_TOLERANCE)
    for got, want in zip(found, wanted, strict=True):
        if wrong := _wrong(np.asarray(got), np.asarray(want), tolerance):
            return wrong
    return ""


def _wrong(got: NDArray[Any], want: NDArray[Any], tolerance: float) -> str:
    if got.shape != want.shape:
        return f"shape {got.shape}, not {want.shape}"
    if np.issubdtype(want.dtype, np.integer):
        count = int((got != want).sum())
        return f"{count} of {want.size} integers differ" if count else ""
    far = np.abs(got - want) > tolerance * (float(np.abs(want).max(initial=0)) or 1.0)
    far |= np.isnan(got) != np.isnan(want)
    if not far.any():
        return ""
    most = float(np.abs(got - want)[far].max())
    return f"{int(far.sum())} of {want.size} numbers are off, by {most:.3g} at most"


def _still_there(bench: Bench, name: str) -> None:
    """A kernel that wrote where it must not breaks all that comes after it: end with its name."""
    try:
        torch.zeros(1, device=bench.device).item()
    except RuntimeError as error:
        raise RuntimeError(f"the device does not answer after {name}: {error}") from error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
