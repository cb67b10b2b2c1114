"""Finds where the host would wait for a card, on a machine without one.

Everything is on the CPU here and nobody waits; but whatever asks for a number of a tensor, or for a
tensor whose size depends on numbers, goes through torch, where it can be seen.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from tests.ops.plain.elsewhere import sizes_are_known

# Numbers on their way to the host, and arrays of the host on theirs to the card, which waits too
# unless they are pinned.
_MOVES = frozenset(
    {
        "tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__",
            "__array__", "__contains__", "tensor", "as_tensor", "equal", "allclose",
    }
)  # fmt: skip


class Calls:
    """How many calls of torch and launches of kernels there were."""

    def __init__(self) -> None:
        self.count = 0
        self.inside = False  # a kernel: the interpreter works with numpy


class _Asked(TorchFunctionMode):
    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if not self.calls.inside:
            assert name not in _MOVES, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class _Dispatched(TorchDispatchMode):
    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.calls.inside:
            self.calls.count += 1
            _check(func, args, kwargs)
        return func(*args, **kwargs)


def _check(func: Any, args: Any, kwargs: Any) -> None:
    name = func.overloadpacket.__name__
    assert name != "_local_scalar_dense", "a number of a tensor was read"
    sizes_are_known(func, args, kwargs)


@contextmanager
def never(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Fails where the host would wait."""
    calls = Calls()
    launch, from_numpy = interpreter.GridExecutor.__call__, torch.from_numpy

    def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
        outside, calls.inside = calls.inside, True
        calls.count += not outside
        try:
            return launch(self, *args, **kwargs)
        finally:
            calls.inside = outside

    def moved(array: Any) -> torch.Tensor:
        assert calls.inside, "an array goes to the device, which waits for it"
        return from_numpy(array)

    with monkeypatch.context() as patch, _Asked(calls), _Dispatched(calls):
        patch.setattr(torch, "from_numpy", moved)
        patch.setattr(interpreter.GridExecutor, "__call__", launched)
        yield calls
