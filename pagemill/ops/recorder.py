"""Records a model once, as a list of operations on symbolic arrays.

A model is ordinary Python over an `Ops` object. Called with a `SymbolicStep` and `Symbol`s it
computes nothing; it leaves behind `Node`s, which `ops/lowering.py` turns into a native program.

Knows nothing of numpy arrays, weights' contents or the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import Any


class Rows(Enum):
    """What the first axis of a symbolic array counts."""

    TOKENS = "tokens"
    ENDING = "ending"  # tokens that will be sampled, in the last layer: see `ops/narrowing.py`
    SAMPLED = "sampled"


@dataclass(frozen=True, eq=False)
class StepArray:
    """One of a step's index arrays, while a model is recorded."""

    recorder: Recorder
    name: str


class SymbolicStep:
    """Stands for a `Step` while a model is recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self.token_ids = StepArray(recorder, "token_ids")
        self.positions = StepArray(recorder, "positions")
        self.token_types = StepArray(recorder, "token_types")
        self.out_rows = StepArray(recorder, "out_rows")


@dataclass(eq=False)
class Node:
    """One recorded operation; its result has `width` floats a row."""

    op: str
    rows: Rows
    width: int
    inputs: tuple[Symbol, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    in_place: bool = False  # the result takes the place of the first input

    @property
    def base(self) -> Node:
        """The node whose buffer holds this node's result."""
        return self.inputs[0].base if self.in_place else self


@dataclass(frozen=True, eq=False)
class Symbol:
    """An array of the recording: columns of a node's result. Offers what models may use on
    arrays. With three axes, (rows, heads, elements), the heads lie `stride` floats apart."""

    recorder: Recorder
    node: Node
    shape: tuple[Any, ...]
    offset: int
    stride: int

    @property
    def width(self) -> int:
        """Floats a row."""
        return prod(self.shape[1:])

    @property
    def heads(self) -> int:
        """How often the last axis repeats in a row."""
        return prod(self.shape[1:-1])

    @property
    def base(self) -> Node:
        """The node whose buffer holds this array."""
        return self.node.base

    @property
    def whole(self) -> bool:
        """Whether this is all that its buffer holds, in its order."""
        return self.offset == 0 and self.width == self.base.width and self.dense() is self

    @property
    def columns(self) -> set[int]:
        """Where in a row of its buffer this array lies."""
        size = self.shape[-1]
        starts = range(self.offset, self.offset + self.heads * self.stride, self.stride)
        return {start + i for start in starts for i in range(size)}

    def __getitem__(self, key: Any) -> Symbol:
        if isinstance(key, StepArray):
            assert key.name == "out_rows"
            return self.recorder.add("gather", Rows.SAMPLED, self.shape[1:], (self.dense(),))
        missing = len(self.shape) - sum(part is not Ellipsis for part in key)
        at = next((i for i, part in enumerate(key) if part is Ellipsis), len(key))
        key = (*key[:at], *[slice(None)] * missing, *key[at + 1 :])
        assert key[0] == slice(None) and len(key) <= 3, "slices are of heads and their elements"
        ranges = [range(size)[part] for part, size in zip(key[1:], self.shape[1:], strict=True)]
        inner = tuple(len(r) for r in ranges)
        *heads, last = (r.start for r in ranges)
        offset = self.offset + last + sum(head * self.stride for head in heads)
        return Symbol(self.recorder, self.node, (self.shape[0], *inner), offset, self.stride)

    def reshape(self, *shape: Any) -> Symbol:
        inner = tuple(shape[1:])
        if -1 in inner:
            inner = tuple(self.width // -prod(inner) if n == -1 else n for n in inner)
        assert shape[0] is self.shape[0] and prod(inner) == self.width
        if inner == self.shape[1:]:
            return self
        x = self.dense()
        return Symbol(x.recorder, x.node, (x.shape[0], *inner), x.offset, inner[-1])

    def __add__(self, other: Symbol) -> Symbol:
        assert self.shape == other.shape
        inputs = (self.dense(), other.dense())
        return self.recorder.add("add", self.shape[0], self.shape[1:], inputs)

    def dense(self) -> Symbol:
        """This array without gaps between its heads."""
        return self if self.heads == 1 or self.stride == self.shape[-1] else self.copy()

    def copy(self) -> Symbol:
        """This array in a buffer of its own."""
        return self.recorder.add("copy", self.shape[0], self.shape[1:], (self,))


class Recorder:
    """Collects the nodes of one recording, in order."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(
        self,
        op: str,
        rows: Rows,
        inner: Sequence[int],
        inputs: tuple[Symbol, ...] = (),
        *,
        in_place: bool = False,
        **attrs: Any,
    ) -> Symbol:
        """Append a node whose result has shape (rows, *inner)."""
        node = Node(op, rows, prod(inner), inputs, attrs, in_place)
        self.nodes.append(node)
        at, stride = (inputs[0].offset, inputs[0].stride) if in_place else (0, inner[-1])
        return Symbol(self, node, (rows, *inner), at, stride)
