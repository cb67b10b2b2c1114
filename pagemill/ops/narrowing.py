"""Leaves out rows that nobody reads.

Of a step's tokens only those that are sampled leave the last layer. Networks say so at their end,
`x[step.out_rows]`; what works on each row by itself may as well come after that gather, so here it
moves up as far as it can: to the last attention. Of most of a prompt's tokens the last layer then
computes keys and values, and no feed-forward network.

Knows nothing of numpy arrays, weights' contents or the engine.
"""

from __future__ import annotations

from pagemill.ops.recorder import Node, Rows, Symbol

_ROW_BY_ROW = {
    "add",
    "bias",
    "copy",
    "curve",
    "experts",
    "gate",
    "gated",
    "layer_norm",
    "linear",
    "linear_heads",
    "normalize",
    "rms_norm",
    "scale",
    "sigmoid_mul",
    "softcap",
}


def narrow(nodes: list[Node], result: Symbol) -> list[Node]:
    """The nodes, of which those that only gathers read are computed for gathered rows."""
    return _Narrowing(_read_by_gathers_alone(nodes, result)).run(nodes)


def _read_by_gathers_alone(nodes: list[Node], result: Symbol) -> set[Node]:
    """However many operations later."""
    found: set[Node] = set()
    read, read_whole = {result.node}, {result.node}
    for node in reversed(nodes):
        if node.rows is Rows.TOKENS and node.op in _ROW_BY_ROW and node in read - read_whole:
            found.add(node)
        inputs = {symbol.node for symbol in node.inputs}
        read |= inputs
        if node.op != "gather" and node not in found:
            read_whole |= inputs
    return found


class _Narrowing:
    def __init__(self, narrowed: set[Node]) -> None:
        self.narrowed = narrowed
        self.out: list[Node] = []
        self.gathered: dict[Node, Node] = {}

    def run(self, nodes: list[Node]) -> list[Node]:
        for node in nodes:
            if node in self.narrowed:
                node.rows = Rows.ENDING
                node.inputs = tuple(self._gather(symbol) for symbol in node.inputs)
            elif node.op == "gather" and node.inputs[0].node in self.narrowed:
                node.op = "copy"
            self.out.append(node)
        return self.out

    def _gather(self, symbol: Symbol) -> Symbol:
        """The symbol's rows that will be sampled."""
        node = symbol.node
        if node not in self.narrowed:
            if node not in self.gathered:
                width = symbol.base.width
                everything = Symbol(symbol.recorder, node, (node.rows, width), 0, width)
                self.gathered[node] = Node("gather", Rows.ENDING, width, (everything,))
                self.out.append(self.gathered[node])
            node = self.gathered[node]
        return Symbol(symbol.recorder, node, symbol.shape, symbol.offset, symbol.stride)
