"""Records a model once as a list of operations on symbolic arrays, then lowers it to a native
program.

A model is ordinary Python over an `Ops` object. Called with a `SymbolicStep` and `Symbol`s it
computes nothing; it leaves behind `Node`s. `lower` turns those into instructions of the native
executor: it fuses what one pass over a row can do (add and norm, norm and quantization), rotates
queries and keys where they lie, and lets buffers be reused as soon as nobody reads them. One step
then costs one native call, whatever the model.

Knows nothing of numpy arrays, weights' contents or the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

_GROUP = 32  # inputs that share a scale in quantized activations; kGroup in native/kernels.h


class Rows(Enum):
    """What the first axis of a symbolic array counts."""

    TOKENS = "tokens"
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


@dataclass(frozen=True, eq=False)
class Symbol:
    """An array of the recording: columns of a node's result. Offers what models may use on
    arrays."""

    recorder: Recorder
    node: Node
    shape: tuple[Any, ...]
    offset: int = 0

    @property
    def width(self) -> int:
        """Floats a row."""
        return _product(self.shape[1:])

    @property
    def base(self) -> Node:
        """The node whose buffer holds this array."""
        return _base(self.node)

    def __getitem__(self, key: Any) -> Symbol:
        if isinstance(key, StepArray):
            assert key.name == "out_rows" and self.offset == 0 and self.width == self.node.width
            return self.recorder.add("gather", Rows.SAMPLED, self.shape[1:], (self,))
        rows, columns = key
        assert rows == slice(None) and len(self.shape) == 2
        start, stop, _ = columns.indices(self.shape[1])
        return Symbol(self.recorder, self.node, (self.shape[0], stop - start), self.offset + start)

    def reshape(self, *shape: Any) -> Symbol:
        assert shape[0] is self.shape[0] and _product(shape[1:]) == self.width
        return Symbol(self.recorder, self.node, tuple(shape), self.offset)

    def __add__(self, other: Symbol) -> Symbol:
        assert self.shape == other.shape
        return self.recorder.add("add", self.shape[0], self.shape[1:], (self, other))


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
        node = Node(op, rows, _product(inner), inputs, attrs, in_place)
        self.nodes.append(node)
        if not in_place:
            return Symbol(self, node, (rows, *inner))
        return Symbol(self, node, (rows, *inner), inputs[0].offset)


def lower(recorder: Recorder, program: Any, result: Symbol) -> dict[Node, int]:
    """Append the recording's instructions to a native program; returns the buffers of nodes.

    Buffers are reused, so only those of inputs (before the run) and of `result` (after it) mean
    something.
    """
    return _Lowering(recorder.nodes, program, result).run()


class _Lowering:
    def __init__(self, nodes: list[Node], program: Any, result: Symbol) -> None:
        self.nodes = nodes
        self.program = program
        self.result = result
        self.buffer_of: dict[Node, int] = {}
        self.free: dict[tuple[int, Rows], list[int]] = {}
        self.last_use = self._last_uses()
        self.wants_int8 = {
            s.base
            for n in nodes
            if n.op == "linear" and n.attrs["weight"].quantized
            for s in n.inputs
        }
        self.has_int8: set[Node] = set()

    def run(self) -> dict[Node, int]:
        i = 0
        while i < len(self.nodes):
            node, after = self.nodes[i], self.nodes[i + 1] if i + 1 < len(self.nodes) else None
            fused = after is not None and self._fuse(node, after)
            if not fused:
                getattr(self, "_" + node.op)(node)
            for done in range(i, i + 1 + fused):
                self._release(done)
            i += 1 + fused
        return self.buffer_of

    def _fuse(self, node: Node, after: Node) -> bool:
        """One instruction for both nodes, where there is one."""
        if not after.inputs or after.inputs[0].node is not node:
            return False
        if (node.op, after.op) == ("add", "rms_norm") and after.attrs["heads"] == 1:
            self._norm(after, added=node)
            return True
        if (node.op, after.op) == ("linear", "silu_mul"):
            weight, alone = node.attrs["weight"], self.last_use[node] == self.nodes.index(after)
            if alone and weight.num_segments == 1 and after.width % _GROUP == 0:
                self._linear_silu_mul(node, after)
                return True
        return False

    def _last_uses(self) -> dict[Node, int]:
        last = {_base(node): i for i, node in enumerate(self.nodes)}
        for i, node in enumerate(self.nodes):
            for symbol in node.inputs:
                last[symbol.base] = i
        last[self.result.base] = len(self.nodes)
        return last

    def _release(self, i: int) -> None:
        for node, last in self.last_use.items():
            if last == i and node in self.buffer_of:
                self.free.setdefault((node.width, node.rows), []).append(self.buffer_of[node])

    def _place(self, node: Node) -> tuple[int, int]:
        """The view of a node's own result, in a free buffer or a new one."""
        free = self.free.get((node.width, node.rows))
        buffer = free.pop() if free else self.program.buffer(node.width, node.rows is Rows.SAMPLED)
        self.buffer_of[node] = buffer
        return buffer, 0

    def _view(self, symbol: Symbol) -> tuple[int, int]:
        return self.buffer_of[symbol.base], symbol.offset

    def _quantizes(self, node: Node) -> bool:
        wanted = node in self.wants_int8
        if wanted:
            self.has_int8.add(node)
        return wanted

    def _input(self, node: Node) -> None:
        self._place(node)

    def _embed(self, node: Node) -> None:
        self.program.embed(node.attrs["table"], self._place(node)[0])

    def _linear(self, node: Node) -> None:
        x = self._linear_input(node)
        self.program.linear(x, node.attrs["weight"], self._place(node)[0])

    def _linear_silu_mul(self, node: Node, after: Node) -> None:
        x, between, out = self._linear_input(node), self._place(node)[0], self._place(after)
        weight = node.attrs["weight"]
        self.program.linear_silu_mul(x, weight, between, out, self._quantizes(after))

    def _linear_input(self, node: Node) -> tuple[int, int]:
        """The view of a product's input, quantized if the weight wants it so."""
        (x,) = node.inputs
        if node.attrs["weight"].quantized and x.base not in self.has_int8:
            assert x.offset == 0 and x.width == x.base.width
            self.program.quantize(self._view(x), x.width)
            self.has_int8.add(x.base)
        return self._view(x)

    def _rms_norm(self, node: Node) -> None:
        self._norm(node, added=None)

    def _norm(self, node: Node, added: Node | None) -> None:
        nothing = (-1, 0)
        x = self._view((added or node).inputs[0])
        other = self._view(added.inputs[1]) if added else nothing
        total = self._place(added) if added else nothing
        weight, eps, heads = (node.attrs[name] for name in ("weight", "eps", "heads"))
        out = self._place(node)
        self.program.norm(x, other, total, weight, eps, heads, out, self._quantizes(node))

    def _silu_mul(self, node: Node) -> None:
        x = self._view(node.inputs[0])
        self.program.silu_mul(x, node.width, self._place(node), self._quantizes(node))

    def _rope(self, node: Node) -> None:
        heads, dim, table = (node.attrs[name] for name in ("heads", "dim", "table"))
        self.program.rope(self._view(node.inputs[0]), heads, dim, table)

    def _attention(self, node: Node) -> None:
        q, k, v = (self._view(symbol) for symbol in node.inputs)
        kv, layer, heads, scale = (node.attrs[name] for name in ("kv", "layer", "heads", "scale"))
        self.program.store_kv(k, v, kv, layer)
        # A task writes whole heads, so it can quantize them if they are whole groups.
        quantized = node.width // heads % _GROUP == 0 and self._quantizes(node)
        self.program.attend(q, heads, kv, layer, scale, self._place(node), quantized)

    def _add(self, node: Node) -> None:
        a, b = (self._view(symbol) for symbol in node.inputs)
        self.program.add(a, b, node.width, self._place(node))

    def _gather(self, node: Node) -> None:
        source = self.buffer_of[node.inputs[0].base]
        self.program.gather(source, self._place(node)[0])


def _base(node: Node) -> Node:
    """The node whose buffer holds this node's result."""
    while node.in_place:
        node = node.inputs[0].node
    return node


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
