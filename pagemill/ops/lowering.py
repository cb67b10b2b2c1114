"""Lowers a recording to a native program: one call a step, whatever the model.

Products take what follows them along (a bias, an activation, the rounding to int8), the native side
runs neighbours that work row by row in one pass, queries and keys are rotated where they lie, and
buffers are used again as soon as nobody reads them.

Knows nothing of numpy arrays, weights' contents or the engine.
"""

from __future__ import annotations

from typing import Any

from pagemill.ops.recorder import Node, Recorder, Rows, Symbol

_GROUP = 32  # inputs that share a scale in quantized activations; kGroup in native/kernels.h


def lower(recorder: Recorder, program: Any, result: Symbol) -> dict[Node, int]:
    """Append the recording's instructions to a native program; returns the buffers of nodes.

    Buffers are reused, so only those of inputs (before the run) and of `result` (after it) mean
    something.
    """
    return _Lowering(_with_copies(recorder.nodes, result), program, result).run()


def _with_copies(nodes: list[Node], result: Symbol) -> list[Node]:
    """The nodes, with a copy before each that would work in place on what is read again later."""
    out: list[Node] = []
    for i, node in enumerate(nodes):
        if node.in_place:
            x = node.inputs[0]
            later = [s for after in nodes[i + 1 :] for s in after.inputs]
            if any(_spoils(node, s) for s in [*later, result]):
                whole = (node.rows, x.base.width)
                everything = Symbol(x.recorder, x.node, whole, 0, x.base.width)
                copy = Node("copy", node.rows, x.base.width, (everything,))
                node.inputs = (Symbol(x.recorder, copy, x.shape, x.offset, x.stride),)
                out.append(copy)
        out.append(node)
    return out


def _spoils(node: Node, reader: Symbol) -> bool:
    """Whether `node`, in place, changes what `reader` expects to find unchanged."""
    if reader.base is not node.base:
        return False
    at = reader.node
    while at.in_place and at is not node:
        at = at.inputs[0].node
    return at is not node and bool(reader.columns & node.inputs[0].columns)


class _Lowering:
    def __init__(self, nodes: list[Node], program: Any, result: Symbol) -> None:
        self.nodes = nodes
        self.program = program
        self.result = result
        self.buffer_of: dict[Node, int] = {}
        self.free: dict[tuple[int, Rows], list[int]] = {}
        self.last_use = self._last_uses()
        self.wants_int8 = {
            node.inputs[0].base
            for node in nodes
            if node.op == "linear" and node.attrs["weight"].quantized
        }
        self.has_int8: set[Node] = set()

    def run(self) -> dict[Node, int]:
        i = 0
        while i < len(self.nodes):
            count = self._fused_product(i) if self.nodes[i].op == "linear" else 0
            if not count:
                getattr(self, "_" + self.nodes[i].op)(self.nodes[i])
                count = 1
            for done in range(i, i + count):
                self._release(done)
            i += count
        return self.buffer_of

    def _last_uses(self) -> dict[Node, int]:
        last = {node.base: i for i, node in enumerate(self.nodes)}
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

    def _views(self, node: Node) -> list[tuple[int, int]]:
        return [self._view(symbol) for symbol in node.inputs]

    def _quantizes(self, node: Node) -> bool:
        wanted = node in self.wants_int8
        if wanted:
            self.has_int8.add(node)
        return wanted

    def _follows(self, node: Node, i: int, *ops: str) -> Node | None:
        """Node i, if it is one of these operations and the only reader of all of `node`."""
        if i >= len(self.nodes) or self.nodes[i].op not in ops or self.last_use[node] != i:
            return None
        x = self.nodes[i].inputs[0]
        return self.nodes[i] if x.node is node and x.whole else None

    def _fused_product(self, i: int) -> int:
        """One instruction for a product, its bias and its activation; returns how many nodes."""
        node = last = self.nodes[i]
        weight, shift, count = node.attrs["weight"], None, 1
        bias = self._follows(node, i + 1, "bias")
        if bias is not None and bias.inputs[0].heads == 1:
            last, shift, count = bias, bias.attrs["vector"], 2
        after = self._follows(last, i + count, "curve", "gate")
        if after is None or weight.num_segments > 1:
            x = self._linear_input(node)
            self.program.linear(x, weight, shift, self._place(last))
            return count
        x, kind = self._linear_input(node), after.attrs["kind"]
        if after.op == "curve":
            self.program.linear_curve(
                x, weight, shift, kind, self._place(after), self._quantizes(after)
            )
            return count + 1
        if after.width % _GROUP:
            self.program.linear(x, weight, shift, self._place(last))
            return count
        between = self._place(last)[0]
        self.program.linear_gate(
            x, weight, shift, kind, between, self._place(after), self._quantizes(after)
        )
        return count + 1

    def _linear_input(self, node: Node) -> tuple[int, int]:
        x = node.inputs[0]
        if node.attrs["weight"].quantized and x.base not in self.has_int8:
            assert x.whole
            self.program.quantize(self._view(x), x.width)
            self.has_int8.add(x.base)
        return self._view(x)

    def _input(self, node: Node) -> None:
        self._place(node)

    def _embed(self, node: Node) -> None:
        self.program.embed(node.attrs["ids"], node.attrs["table"], self._place(node))

    def _rms_norm(self, node: Node) -> None:
        (x,), attrs = self._views(node), node.attrs
        heads = node.inputs[0].heads
        self.program.rms_norm(x, attrs["weight"], attrs["eps"], heads, self._place(node))

    def _layer_norm(self, node: Node) -> None:
        (x,), attrs = self._views(node), node.attrs
        scale, shift, heads = attrs["weight"], attrs["shift"], node.inputs[0].heads
        self.program.layer_norm(x, scale, shift, attrs["eps"], heads, self._place(node))

    def _normalize(self, node: Node) -> None:
        (x,), symbol = self._views(node), node.inputs[0]
        self.program.normalize(x, symbol.shape[-1], symbol.heads, self._place(node))

    def _bias(self, node: Node) -> None:
        (x,) = self._views(node)
        self.program.bias(x, node.attrs["vector"], node.inputs[0].heads, self._place(node))

    def _curve(self, node: Node) -> None:
        (x,) = self._views(node)
        self.program.curve(x, node.attrs["kind"], node.width, self._place(node))

    def _gate(self, node: Node) -> None:
        (x,) = self._views(node)
        self.program.gate(x, node.attrs["kind"], node.width, self._place(node))

    def _sigmoid_mul(self, node: Node) -> None:
        x, gates = self._views(node)
        one_gate = node.inputs[1].width == 1
        self.program.sigmoid_mul(x, gates, one_gate, node.width, self._place(node))

    def _scale(self, node: Node) -> None:
        (x,) = self._views(node)
        self.program.scale(x, node.attrs["factor"], node.width, self._place(node))

    def _softcap(self, node: Node) -> None:
        (x,) = self._views(node)
        self.program.softcap(x, node.attrs["cap"], node.width, self._place(node))

    def _add(self, node: Node) -> None:
        a, b = self._views(node)
        self.program.add(a, b, node.width, self._place(node))

    def _copy(self, node: Node) -> None:
        x, size = node.inputs[0], node.inputs[0].shape[-1]
        self.program.copy(self._view(x), x.heads, size, x.stride, self._place(node), size)

    def _rope(self, node: Node) -> None:
        x = node.inputs[0]
        self.program.rope(self._view(x), x.heads, x.stride, node.attrs["table"])
        self.has_int8.discard(x.base)

    def _attention(self, node: Node) -> None:
        q, k, v = self._views(node)
        kv, layer, attrs = node.attrs["kv"], node.attrs["layer"], node.attrs
        heads, dim = node.inputs[0].shape[1:]
        self.program.store_kv(k, v, kv, layer)
        # A task writes whole heads, so it can quantize them if they are whole groups.
        quantized = dim % _GROUP == 0 and self._quantizes(node)
        out = self._place(node)
        self.program.attend(q, heads, kv, layer, attrs["scoring"], attrs["sinks"], out, quantized)

    def _dense_attention(self, node: Node) -> None:
        q, k, v = self._views(node)
        heads, dim = node.inputs[0].shape[1:]
        kv_heads, scoring = node.inputs[1].shape[1], node.attrs["scoring"]
        quantized = dim % _GROUP == 0 and self._quantizes(node)
        out = self._place(node)
        self.program.attend_dense(q, k, v, heads, kv_heads, dim, scoring, out, quantized)

    def _gather(self, node: Node) -> None:
        self.program.gather(self._view(node.inputs[0]), node.width, self._place(node))

    def _pool(self, node: Node) -> None:
        (x,) = self._views(node)
        self.program.pool(x, node.attrs["kind"], node.width, self._place(node))
