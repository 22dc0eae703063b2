"""Graphs inside nodes, as If and Scan have them: what they take from around them, and copies of their nodes.

Nothing here knows what an operator means: what flows through such graphs is in ``activity``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir


def graphs_of(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs that a node holds in its attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def captured(node: ir.Node) -> list[ir.Value]:
    """Return what the graphs inside a node take from around it, each value once, in a fixed order."""
    found: dict[ir.Value, None] = {}
    for graph in graphs_of(node):
        own = {*graph.inputs, *graph.initializers.values(), *(v for inner in graph for v in inner.outputs)}
        read = [v for inner in graph for v in operands(inner)]
        found.update((v, None) for v in [*read, *graph.outputs] if v is not None and v not in own)
    return list(found)


def operands(node: ir.Node) -> list[ir.Value | None]:
    """Return all that a node reads: its inputs, and then what the graphs inside it take from around them."""
    return [*node.inputs, *captured(node)]


def with_inner(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for graph in graphs_of(node):
            yield from with_inner(graph)


def replace_operand(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Let a node, and the graphs inside it, read another value."""
    for inner in with_inner([node]):
        for i, operand in enumerate(inner.inputs):
            if operand is old:
                inner.replace_input_with(i, new)


def copied(node: ir.Node, on: Sequence[ir.Value | None]) -> ir.Node:
    """Return the same operator, with the same attributes, on other operands; graphs inside it are copied."""
    attributes = [
        ir.AttrGraph(a.name, a.as_graph().clone(allow_outer_scope_values=True))
        if a.type == ir.AttributeType.GRAPH
        else a
        for a in node.attributes.values()
    ]
    taken = captured(node)
    inputs, outer = (on[: len(node.inputs)], on[len(node.inputs) :]) if taken else (on, [])
    copy = ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=len(node.outputs))
    for old, new in zip(taken, outer, strict=False):
        if new is not None and new is not old:
            replace_operand(copy, old, new)
    return copy


def detach(node: ir.Node) -> None:
    """Let the graphs inside a node that is about to go no longer count as readers of what is around it."""
    for graph in graphs_of(node):
        for inner in with_inner(graph):
            for i in range(len(inner.inputs)):
                inner.replace_input_with(i, None)
