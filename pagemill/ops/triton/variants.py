"""How a kernel is launched, written down for those who compile it without a card."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One specialization of a kernel.

    `types` gives the Triton type of every argument that is not in `constants`, in any order:
    "*bf16", "*fp8e4nv", "*i8", "i32", "i64", "fp32". Pointers count as aligned to 16 bytes, as
    tensors are; an integer that is a multiple of 16 in practice (a stride, a width) says so as
    "i32:16", because loads become wide only when the compiler knows. Any other integer must be in
    the kernel's `do_not_specialize`: Triton would compile it again when that is first 1, or a
    multiple of 16, and a step would wait.
    """

    name: str
    kernel: Any  # what @triton.jit made
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    archs: tuple[int, ...] = (80, 90, 100)  # compute capabilities that launch it so
    may_spill: bool = False  # registers in memory are known here and cheaper than what avoids them
