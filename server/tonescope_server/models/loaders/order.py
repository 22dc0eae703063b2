"""Nodes in the order in which they can be computed. ONNX asks for that, converters leave it to the runtime."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, GraphProto, NodeProto


def in_order(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every node after those that it reads from; itself where that is so already.

    Nodes keep their order as far as it can be kept. Where no order will do, as there is a circle or something that no
    node makes, the graph is left to ONNX's checker, which says so.
    """
    if _is_sorted(proto.graph, set()):
        return proto
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    _sort(made.graph)
    return made


def _is_sorted(graph: GraphProto, outside: set[str]) -> bool:
    known = outside | {v.name for v in graph.input} | {v.name for v in graph.initializer}
    known |= {v.values.name for v in graph.sparse_initializer}
    for node in graph.node:
        if not known.issuperset(name for name in node.input if name):
            return False
        if not all(_is_sorted(inner, known) for inner in _graphs(node)):
            return False
        known.update(node.output)
    return True


def _sort(graph: GraphProto) -> None:
    for node in graph.node:
        for inner in _graphs(node):
            _sort(inner)
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    waits_for = [{maker[name] for name in _read(node) if name in maker} for node in graph.node]
    order: list[int] = []
    done: set[int] = set()
    # Depth first, by hand: graphs are deeper than Python's stack.
    for first in range(len(graph.node)):
        waiting = [first]
        begun: set[int] = set()
        while waiting:
            number = waiting[-1]
            before = sorted(waits_for[number] - done)
            if number in done or (number in begun and before):
                if number not in done:
                    return  # a circle
                waiting.pop()
            elif before:
                begun.add(number)
                waiting.extend(reversed(before))
            else:
                done.add(number)
                order.append(waiting.pop())
    nodes = [graph.node[i] for i in order]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _read(node: NodeProto) -> Iterator[str]:
    """Yield the names of what a node reads, and of what graphs inside it do."""
    yield from (name for name in node.input if name)
    for graph in _graphs(node):
        for inner in graph.node:
            yield from _read(inner)
        yield from (value.name for value in graph.output)


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
