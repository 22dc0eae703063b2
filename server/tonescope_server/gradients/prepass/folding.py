"""Batch normalisations folded into the layer before them."""

from __future__ import annotations

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.prepass._graph import input_of, remove_unused
from tonescope_server.gradients.rule_set import operator_name


def fold_batch_normalization(graph: ir.Graph) -> int:
    """Fold batch normalisations into the convolution or dense layer before them, in place.

    Only where nothing else reads that layer's result. The weights are scaled in the graph; ONNX Runtime does the
    arithmetic once, at load.

    Returns:
        The number folded.
    """
    context = Context(graph)
    folded = 0
    for node in list(graph):
        layer = input_of(node, 0).producer() if operator_name(node) == "BatchNormalization" else None
        if layer is None or operator_name(layer) not in ("Conv", "Gemm") or len(layer.outputs[0].uses()) != 1:
            continue
        if layer.outputs[0].is_graph_output() or not _is_plain(context, layer):
            continue
        _fold(context, layer, node)
        folded += 1
    if folded:
        graph.sort()
        remove_unused(graph)
    return folded


def _is_plain(context: Context, layer: ir.Node) -> bool:
    """Tell whether a layer's rows are its results: not so for a Gemm that scales or turns its operands."""
    if operator_name(layer) == "Conv":
        return True
    factors = context.attribute(layer, "alpha", 1.0), context.attribute(layer, "beta", 1.0)
    return factors == (1.0, 1.0) and bool(context.attribute(layer, "transB", 0))


def _fold(context: Context, layer: ir.Node, norm: ir.Node) -> None:
    scale, shift, mean, variance = (input_of(norm, i) for i in range(1, 5))
    epsilon = context.scalar(context.attribute(norm, "epsilon", 1e-5), variance)
    factor = context.op("Div", scale, context.op("Sqrt", context.op("Add", variance, epsilon)))
    weight = input_of(layer, 1)
    per_row = context.op("Reshape", factor, context.ints([-1, *[1] * (context.rank(weight) - 1)]))
    scaled = context.typed(context.op("Mul", weight, per_row), weight)
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    centred = context.op("Neg", mean) if bias is None else context.op("Sub", bias, mean)
    moved = context.typed(context.op("Add", context.op("Mul", centred, factor), shift), shift)
    layer.replace_input_with(1, scaled)
    if bias is None:
        layer.resize_inputs(3)
    layer.replace_input_with(2, moved)
    _take_the_place_of(norm.outputs[0], layer.outputs[0])


def _take_the_place_of(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` be read, and be called, what ``old`` was."""
    name, own = old.name, new.name
    graph = old.graph
    for i, output in enumerate(graph.outputs if graph is not None else ()):
        if output is old and graph is not None:
            graph.outputs[i] = new
    old.replace_all_uses_with(new)
    old.name, new.name = f"{own}:replaced", name
