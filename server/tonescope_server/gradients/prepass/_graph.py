"""What every rewrite of a forward graph needs: a required input, and the removal of what nothing reads any more."""

from __future__ import annotations

import onnx_ir as ir

from tonescope_server.gradients.subgraphs import detach


def input_of(node: ir.Node, index: int) -> ir.Value:
    """Return an input that ONNX requires of this operator."""
    value = node.inputs[index]
    assert value is not None  # the inputs asked for here are required by ONNX
    return value


def remove_unused(graph: ir.Graph) -> None:
    """Remove the nodes, and then the initializers, that no output depends on, in place."""
    for node in reversed(list(graph)):
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            detach(node)
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
