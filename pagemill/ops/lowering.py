"""Lowers a recording to a native program: one call a step, whatever the model.

Rows that nobody reads are left out, products take what follows them along (a bias, an activation,
the rounding to int8), the native side runs neighbours that work row by row in one pass, queries and
keys are rotated where they lie, and buffers are used again as soon as nobody reads them.

Knows nothing of numpy arrays, weights' contents or the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pagemill.ops.interface import Routing
from pagemill.ops.narrowing import narrow
from pagemill.ops.recorder import Node, Recorder, Rows, Symbol

_GROUP = 32  # inputs that share a scale in quantized activations; kGroup in native/kernels.h


def lower(recorder: Recorder, program: Any, result: Symbol) -> dict[Node, int]:
    """Append the recording's instructions to a native program; returns the buffers of nodes.

    Buffers are reused, so only those of inputs (before the run) and of `result` (after it) mean
    something.
    """
    nodes = narrow(recorder.nodes, result)
    return _Lowering(_with_copies(nodes, result), program, result).run()


def _with_copies(nodes: list[Node], result: Symbol) -> list[Node]:
    """The nodes, with a copy before each that would work in place on what is read again later."""
    bases = [node.base for node in nodes]  # before any copy
    readers: dict[Node, list[tuple[int, Symbol]]] = {result.base: [(len(nodes), result)]}
    for i, node in enumerate(nodes):
        for symbol in node.inputs:
            readers.setdefault(symbol.base, []).append((i, symbol))
    out: list[Node] = []
    for i, node in enumerate(nodes):
        if node.in_place and any(at > i and _spoils(node, s) for at, s in readers[bases[i]]):
            x, width = node.inputs[0], node.base.width
            everything = Symbol(x.recorder, x.node, (node.rows, width), 0, width)
            copy = Node("copy", node.rows, width, (everything,))
            node.inputs = (Symbol(x.recorder, copy, x.shape, x.offset, x.stride),)
            out.append(copy)
        out.append(node)
    return out


def _spoils(node: Node, reader: Symbol) -> bool:
    """Whether `node`, in place, changes what `reader` expects to find unchanged."""
    if reader.base is not node.base:  # it reads a copy that was made meanwhile
        return False
    at = reader.node
    while at.in_place and at is not node:
        at = at.inputs[0].node
    return at is not node and bool(reader.columns & node.inputs[0].columns)


def _takes_int8(node: Node) -> bool:
    """Whether the first input of a node goes into a product with quantized weights."""
    if node.op == "linear":
        return bool(node.attrs["weight"].quantized)
    return node.op == "experts" and bool(node.attrs["gate_up"][0].quantized)


def _numbers(routing: Routing) -> tuple[int, bool, bool, float, int, int, bool]:
    """A routing as the native side takes it."""
    return (
        routing.top_k,
        routing.score == "sigmoid",
        routing.normalize,
        routing.scale,
        routing.groups,
        routing.top_groups,
        routing.group_pairs,
    )


class _Kind(NamedTuple):
    """Buffers of one kind may take each other's place. Rows that are `repeat`ed (visits of experts,
    heads) never share with those that are not: a phase reads the ones while it writes the others.
    """

    width: int
    rows: Rows
    repeat: int = 0
    int8: bool = False  # and nothing else


class _Lowering:
    def __init__(self, nodes: list[Node], program: Any, result: Symbol) -> None:
        self.nodes = nodes
        self.program = program
        self.result = result
        self.buffer_of: dict[Node, int] = {}
        self.free: dict[_Kind, list[int]] = {}
        self.last_use = self._last_uses()
        self.ends: dict[int, list[Node]] = {}  # nodes by their last use
        for node, last in self.last_use.items():
            self.ends.setdefault(last, []).append(node)
        self.wants_int8 = {node.inputs[0].base for node in nodes if _takes_int8(node)}
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
        for node in self.ends.get(i, ()):
            if node in self.buffer_of:
                self._give(_Kind(node.width, node.rows), self.buffer_of[node])

    def _take(self, kind: _Kind) -> int:
        """A free buffer, or a new one."""
        free = self.free.get(kind)
        if free:
            return free.pop()
        # Logits decide: rows that are sampled go into their product with twice the bits.
        sampled, planes = kind.rows is not Rows.TOKENS, 2 if kind.rows is Rows.SAMPLED else 1
        return int(self.program.buffer(kind.width, sampled, max(1, kind.repeat), planes))

    def _give(self, kind: _Kind, buffer: int) -> None:
        self.free.setdefault(kind, []).append(buffer)

    def _place(self, node: Node) -> tuple[int, int]:
        """The view of a node's own result."""
        self.buffer_of[node] = self._take(_Kind(node.width, node.rows))
        return self.buffer_of[node], 0

    @contextmanager
    def _borrow(self, *kinds: _Kind) -> Iterator[Any]:
        """A buffer, or several, for what lies between a node's instructions."""
        buffers = [self._take(kind) for kind in kinds]
        yield buffers[0] if len(kinds) == 1 else buffers
        for kind, buffer in zip(kinds, buffers, strict=True):
            self._give(kind, buffer)

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
            x = self._product_input(node)
            self.program.linear(x, weight, shift, self._place(last))
            return count
        x, kind = self._product_input(node), after.attrs["kind"]
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

    def _product_input(self, node: Node) -> tuple[int, int]:
        x = node.inputs[0]
        if _takes_int8(node) and x.base not in self.has_int8:
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
        width, heads = node.inputs[0].shape[-1], node.inputs[0].heads
        self.program.rms_norm(x, attrs["weight"], attrs["eps"], width, heads, self._place(node))

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
        ((buffer, at),), kind = self._views(node), node.attrs["kind"]
        up = (buffer, at + node.width)
        self.program.gate((buffer, at), up, kind, node.width, self._place(node))

    def _gated(self, node: Node) -> None:
        x, gates = self._views(node)
        self.program.gate(gates, x, node.attrs["kind"], node.width, self._place(node))

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
        (q, k, v), attrs = self._views(node), node.attrs
        kv, layer, scoring, sinks = (attrs[name] for name in ("kv", "layer", "scoring", "sinks"))
        heads, dim = node.inputs[0].shape[1:]
        self.program.store_kv(k, v, kv, layer)
        # A task writes whole heads, so it can quantize them if they are whole groups.
        quantized = dim % _GROUP == 0 and self._quantizes(node)
        out = self._place(node)
        self.program.attend(q, heads, kv, layer, dim, scoring, sinks, out, quantized)

    def _latent_attention(self, node: Node) -> None:
        """Queries of both parts side by side; one head of keys, whose first part is the value."""
        q, q_rope, latent, k_rope = node.inputs
        kv, layer, scoring = (node.attrs[name] for name in ("kv", "layer", "scoring"))
        heads, width = q.shape[1:]
        both = width + q_rope.shape[2]
        with self._borrow(_Kind(heads * both, node.rows)) as queries:
            for part, at in ((q, 0), (q_rope, width)):
                view, out = self._view(part), (queries, at)
                self.program.copy(view, heads, part.shape[2], part.stride, out, both)
            self.program.store_latent(self._view(latent), width, self._view(k_rope), kv, layer)
            out = self._place(node)
            self.program.attend((queries, 0), heads, kv, layer, width, scoring, None, out, False)

    def _linear_heads(self, node: Node) -> None:
        x, weight = node.inputs[0], node.attrs["weight"]
        if not weight.quantized:
            self.program.linear_heads(self._view(x), x.heads, weight, -1, self._place(node))
            return
        with self._borrow(_Kind(weight.k, node.rows, x.heads, int8=True)) as int8:
            self.program.linear_heads(self._view(x), x.heads, weight, int8, self._place(node))

    def _experts(self, node: Node) -> None:
        attrs, rows, routing = node.attrs, node.rows, node.attrs["routing"]
        gate_up, down = attrs["gate_up"], attrs["down"]
        int8, inner = gate_up[0].quantized, _Kind(down[0].k, rows, routing.top_k)
        x, logits = self._product_input(node), self._view(node.inputs[1])
        spread = _Kind(node.width, rows, routing.top_k, int8)
        with self._borrow(
            _Kind(2 * len(down), rows), spread, inner._replace(width=2 * inner.width), inner,
            spread._replace(int8=False),
        ) as (scores, visits, both, gated, results):  # fmt: skip
            program, bias = self.program, attrs["selection_bias"]
            routes = program.route(logits, len(down), _numbers(routing), bias, scores)
            program.spread(x, node.width, routes, (visits, 0), int8)
            kind, biases, int8 = routing.activation, attrs["gate_up_bias"], down[0].quantized
            view, out = (visits, 0), (gated, 0)
            if inner.width % _GROUP or gate_up[0].num_segments > 1:
                program.experts_linear(view, gate_up, biases, routes, (both, 0))
                program.gate((both, 0), (both, inner.width), kind, inner.width, out)
                if int8:
                    program.quantize(out, inner.width)
            else:
                program.experts_gate(view, gate_up, biases, kind, routes, both, out, int8)
            program.experts_linear(out, down, attrs["down_bias"], routes, (results, 0))
            program.combine((results, 0), node.width, routes, self._place(node))

    def _short_conv(self, node: Node) -> None:
        (x,), attrs = self._views(node), node.attrs
        weight, bias, state = attrs["weight"], attrs["bias"], attrs["state"]
        self.program.short_conv(x, weight, bias, state.cache, state.layer, self._place(node))

    def _mamba2(self, node: Node) -> None:
        x, dt, b, c = self._views(node)
        heads, dim = node.inputs[0].shape[1:]
        a, d, state = (node.attrs[name] for name in ("a", "d", "state"))
        self.program.mamba2(
            x, dt, b, c, heads, node.inputs[2].shape[1], dim, a, d, state.cache, state.layer,
            self._place(node),
        )  # fmt: skip

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
