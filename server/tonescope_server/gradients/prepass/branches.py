"""Branches whose condition is known before anything runs, put in the place of their If.

Exporters write such branches around shapes: squeeze, if that axis is one. Once sizes are known, so is the answer.
"""

from __future__ import annotations

import onnx_ir as ir

from tonescope_server.gradients.prepass.integers import Known
from tonescope_server.gradients.rule_set import operator_name
from tonescope_server.gradients.subgraphs import detach


def fold_branches(model: ir.Model, known: Known) -> bool:
    """Put the branch that is taken in the place of each If whose condition is known, in place; tell whether any was.

    Names must have been told apart. Shapes have to be inferred again.
    """
    folded = False
    for graph in list(model.graphs()):
        for node in list(graph):
            condition = (
                known.get(node.inputs[0]) if operator_name(node) == "If" and node.inputs[0] is not None else None
            )
            if condition is not None and condition.size == 1:
                _inline(graph, node, "then_branch" if condition.reshape(-1)[0] else "else_branch")
                folded = True
    if folded:
        _forget_made_up_sizes(model)
    return folded


def _inline(graph: ir.Graph, node: ir.Node, name: str) -> None:
    branch = node.attributes[name].as_graph()
    nodes, results = list(branch), list(branch.outputs)
    branch.outputs.clear()
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    used = [(old, new) for old, new in zip(node.outputs, results, strict=True) if old.name]
    made = [ir.node("Identity", [new]) for _, new in used]
    for (old, new), copy in zip(used, made, strict=True):
        old.shape = None  # it was that of either branch
        copy.outputs[0].shape, copy.outputs[0].type = new.shape, new.type
    detach(node)
    olds, news = [old for old, _ in used], [copy.outputs[0] for copy in made]
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, olds, news)


def _forget_made_up_sizes(model: ir.Model) -> None:
    """Forget the names that inference made up for sizes: it keeps them, though they may be known now."""
    for graph in model.graphs():
        for value in (v for node in graph for v in node.outputs):
            if value.shape is not None:
                value.shape = ir.Shape([d if isinstance(d, int) or not _made_up(d) else None for d in value.shape])


def _made_up(dim: ir.SymbolicDim) -> bool:
    return dim.value is None or dim.value.startswith("unk__")
