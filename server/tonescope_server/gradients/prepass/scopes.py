"""Names that say what they mean wherever they are read, graphs inside nodes included."""

from __future__ import annotations

import re

import onnx_ir as ir

# What an emitted value is called where nothing else is said; a graph only looks among its own names.
_EMITTED = re.compile(r"val_\d+$")


def separate_scopes(model: ir.Model) -> None:
    """Give what is in graphs inside nodes names of its own, and their initializers to the outermost graph, in place.

    Nodes may then be moved from one graph to another, and whatever is emitted into one hides nothing of another.
    """
    inner = list(model.graph.subgraphs())
    if not inner:
        return
    values, nodes = _names(model.graph)
    for graph in inner:
        _lift_initializers(graph, model.graph, values)
        for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
            if value.name:
                value.name = _free(value.name, values)
        for node in graph:
            if node.name:
                node.name = _free(node.name, nodes)


def _names(graph: ir.Graph) -> tuple[set[str], set[str]]:
    values = (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs))
    return {v.name or "" for v in values}, {node.name or "" for node in graph}


def _lift_initializers(graph: ir.Graph, outermost: ir.Graph, taken: set[str]) -> None:
    for name, value in list(graph.initializers.items()):
        if value.is_graph_input() or value.const_value is None:
            continue
        # A tensor has a name too, and the caller's model has the same tensor: it must keep its name there.
        lifted_name = _free(name, taken)
        tensor = ir.Tensor(value.const_value.numpy(), value.const_value.dtype, name=lifted_name)
        lifted = ir.Value(name=lifted_name, shape=value.shape, type=value.type, const_value=tensor)
        value.replace_all_uses_with(lifted, replace_graph_outputs=True)
        del graph.initializers[name]
        outermost.register_initializer(lifted)


def _free(name: str, taken: set[str]) -> str:
    """Return a name that nothing goes by, and take it."""
    found, number = name, 0
    while found in taken or _EMITTED.match(found):
        number += 1
        found = f"{name}:{number}"
    taken.add(found)
    return found
