"""A graph inside another: a method's plan, as often as the method runs it. What is the same in two is there once."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.subgraphs import operands


class Copies:
    """Puts copies of a graph into another. Weights, and nodes that read the same in several copies, are shared."""

    def __init__(self, context: Context, graph: ir.Graph) -> None:
        """Prepare.

        Args:
            context: emits into the graph that grows.
            graph: what is copied; it stays as it is.
        """
        self._context = context
        self._graph = graph
        self._weights = {value: self._weight(value) for value in graph.initializers.values()}
        self._made: dict[tuple[ir.Node, tuple[ir.Value | None, ...]], list[ir.Value]] = {}
        self._named: set[str] = set()

    def add(self, given: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
        """Add one copy, on these inputs; return its outputs by name."""
        values: dict[ir.Value, ir.Value] = dict(self._weights)
        values.update((v, given[str(v.name)]) for v in self._graph.inputs)
        for node in self._graph:
            on = tuple(None if v is None else values.get(v, v) for v in operands(node))
            if (node, on) not in self._made:
                self._made[node, on] = self._again(node, on)
            values.update(zip(node.outputs, self._made[node, on], strict=True))
        return {str(v.name): values[v] for v in self._graph.outputs}

    def _again(self, node: ir.Node, on: tuple[ir.Value | None, ...]) -> list[ir.Value]:
        made = list(self._context.again(node, on))
        for old, new in zip(node.outputs, made, strict=True):
            new.type = old.type
            if not old.name:
                new.name = ""  # a result that nothing asks for costs nothing
        copy = made[0].producer()
        if copy is not None and node.name and node.name not in self._named:
            self._named.add(node.name)
            copy.name = node.name
        return made

    def _weight(self, value: ir.Value) -> ir.Value:
        graph = self._context.graph
        name = str(value.name)
        while name in graph.initializers:
            name += "'"
        copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
        graph.register_initializer(copy)
        return copy


def depending_on(graph: ir.Graph, names: set[str]) -> set[str]:
    """Name the outputs of a graph that depend on any of some inputs."""
    reached = {v for v in graph.inputs if v.name in names}
    for node in graph:
        if any(v in reached for v in operands(node)):
            reached.update(node.outputs)
    return {str(v.name) for v in graph.outputs if v in reached}


def after(context: Context, value: ir.Value, earlier: ir.Value) -> ir.Value:
    """Return a value that is there only once another one is: its shape is said in terms of the other's."""
    none = context.op("Mul", context.op("Shape", earlier, start=0, end=1), context.ints([0]))
    return context.op("Reshape", value, context.op("Add", context.op("Shape", value), none))


def longest(graph: ir.Graph) -> str:
    """Name the output of a graph that the most nodes are needed for."""
    needed: dict[str, int] = {}
    for output in graph.outputs:
        wanted, count = {output}, 0
        for node in reversed(list(graph)):
            if any(v in wanted for v in node.outputs):
                wanted.update(v for v in operands(node) if v is not None)
                count += 1
        needed[str(output.name)] = count
    return max(needed, key=lambda name: needed[name])
