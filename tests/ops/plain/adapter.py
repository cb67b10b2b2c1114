"""Tensors behind the numpy arrays that the table of cases speaks."""

from functools import wraps
from typing import Any

import numpy as np
import torch

from pagemill.ops.interface import Step
from pagemill.ops.plain.ops import PlainOps
from pagemill.ops.plain.step import to_device

_AS_THEY_ARE = ("upload", "vector", "new_kv", "new_state", "compile", "reach")


class OnArrays:
    """A backend on tensors, called with numpy arrays: they are moved to its device first, floats
    in its type, and so are steps."""

    def __init__(self, ops: PlainOps) -> None:
        self.ops = ops

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.ops, name)
        if name in _AS_THEY_ARE or not callable(method):
            return method

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*map(self._moved, args), **kwargs)
            return result.float().cpu() if isinstance(result, torch.Tensor) else result

        def traced(*args: Any, **kwargs: Any) -> Any:
            inside = not any(isinstance(arg, np.ndarray) for arg in args)  # of a compiled model
            return method(*args, **kwargs) if inside else call(*args, **kwargs)

        return traced

    def _moved(self, arg: Any) -> Any:
        if isinstance(arg, Step):
            step = to_device(arg, self.ops.device)
            self.ops.reach(step.max_kv_len)
            return step
        if not isinstance(arg, np.ndarray):
            return arg
        tensor = torch.from_numpy(np.ascontiguousarray(arg)).to(self.ops.device)
        if arg.dtype == np.float32:
            return tensor.to(self.ops.dtype)
        self.ops.reach(int(arg.max(initial=0)) + 1)  # positions, perhaps
        return tensor
