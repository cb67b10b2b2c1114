"""Kernels run in Triton's interpreter here (see tests/conftest.py): no card is needed."""

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

torch.set_num_threads(1)
if not triton.knobs.runtime.interpret:
    raise RuntimeError("these tests run in Triton's interpreter: TRITON_INTERPRET must be 1")

_create_dot = interpreter.InterpreterBuilder.create_dot


def _widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    bits = handle.data.astype(np.uint32) << 16
    return interpreter.TensorHandle(bits.view(np.float32), tl.float32)


def _dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    """The interpreter holds bfloat16 as bits and would multiply those."""
    return _create_dot(self, _widened(a), _widened(b), *rest)


interpreter.InterpreterBuilder.create_dot = _dot


_patch_lang, _restore = interpreter._patch_lang, interpreter._LangPatchScope.restore
_patched: set[frozenset[int]] = set()


def _patched_once(fn: Any) -> Any:
    """The interpreter replaces Triton's language for every call of a function within a kernel, a
    third of its time. Once a launch will do for functions that see the same modules of it."""
    seen = frozenset(
        id(value) for value in fn.__globals__.values() if value is tl or value is tl.core
    )
    if seen in _patched:
        return interpreter._LangPatchScope()
    _patched.add(seen)
    return _patch_lang(fn)


def _restored(self: Any) -> None:
    """At the end of a launch."""
    _patched.clear()
    _restore(self)


interpreter._patch_lang, interpreter._LangPatchScope.restore = _patched_once, _restored
