"""Shape inference, and what ONNX's own leaves out: small integers folded, sizes recognised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import ShapeInferencePass

from tonescope_server.gradients.context import constant_of
from tonescope_server.gradients.prepass._graph import input_of
from tonescope_server.gradients.rule_set import operator_name

MOST_FOLDED = 64  # elements: shapes, not tables
_KEEPS_SHAPE = frozenset({"GroupNormalization", "MeanVarianceNormalization", "RMSNormalization"})
_OF_INTEGERS = {"Add", "Sub", "Mul", "Mod", "Reshape", "Concat", "Squeeze", "Unsqueeze", "Slice", "Gather"}


def infer_shapes(model: ir.Model) -> ir.Model:
    """Infer the shape and type of every value of ``model``, in place, and return it."""
    infer = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    _fold_integers(model)
    infer(model)
    while _fill_same_shapes(model.graph):
        infer(model)
    _recognise_sizes(model.graph)
    return model


def _fold_integers(model: ir.Model) -> None:
    """Work out small integers that follow from constants alone, in place: what shapes, axes and slices are made of.

    ONNX's inference looks through few operators: a Slice whose end is a Reshape of a Constant leaves everything after
    it without a rank, which is how torch's older exporter writes attention.
    """
    graph = model.graph
    known: dict[Any, Any] = {}
    for value in graph.initializers.values():
        if value.const_value is not None and _small(value):
            known[value] = value.const_value.numpy()
    for node in list(graph):
        if node.op_type == "Constant":
            found = constant_of(node)
        elif operator_name(node) in _OF_INTEGERS and all(v in known for v in node.inputs if v is not None):
            found = _evaluate(model, node, known)
        else:
            continue
        if found is None or found.dtype.kind not in "iu" or found.size > MOST_FOLDED:
            continue
        known[node.outputs[0]] = found
        if node.op_type != "Constant":
            made = ir.node("Constant", [], {"value": ir.tensor(found)}, name=node.name)
            ir.convenience.replace_nodes_and_values(graph, node, [node], [made], node.outputs, made.outputs)
            known[made.outputs[0]] = found


def _small(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype.is_integer() and tensor.size <= MOST_FOLDED


def _evaluate(model: ir.Model, node: ir.Node, known: Mapping[Any, Any]) -> Any:
    """Return the first result of one node by ONNX's own reference implementation."""
    operands = dict.fromkeys(v for v in node.inputs if v is not None)
    names = {v: f"i{k}" for k, v in enumerate(operands)}
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if v is None else names[v] for v in node.inputs)
    proto.output.append("y")
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(known[v].dtype), known[v].shape)
        for v, name in names.items()
    ]
    graph = onnx.helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name="y")])
    opset = onnx.helper.make_opsetid("", model.opset_imports.get("", 18))
    evaluator: Any = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset]))
    return np.asarray(evaluator.run(None, {name: known[v] for v, name in names.items()})[0])


def _recognise_sizes(graph: ir.Graph) -> None:
    """Call the −1 of a Reshape what it is, where all else says that it is an axis that came in.

    ONNX's inference makes up a new name for each, so that two values of one batch seem to have two sizes, and every
    operator that might broadcast would have to find out at run time.
    """
    sizes: dict[str, str] = {}
    for node in graph:
        if operator_name(node) != "Reshape":
            continue
        before, after = (_open_size(v, sizes) for v in (input_of(node, 0), node.outputs[0]))
        if before and after and before[1] == after[1] and before[0] != after[0]:
            sizes[after[0]] = before[0]
    if not sizes:
        return
    for node in graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_size(d, sizes) for d in value.shape])


def _open_size(value: ir.Value, sizes: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the only axis of unknown size by its name, and the product of the others; None where it is not so."""
    dims = [_size(d, sizes) for d in value.shape] if value.shape is not None else []
    names = [d for d in dims if isinstance(d, str)]
    known = [d for d in dims if isinstance(d, int)]
    product = math.prod(known)
    return (names[0], product) if len(names) == 1 and len(known) + 1 == len(dims) and product else None


def _size(dim: int | ir.SymbolicDim, sizes: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int):
        return dim
    return sizes.get(dim.value, dim.value) if dim.value is not None else None


def _fill_same_shapes(graph: ir.Graph) -> bool:
    """Give results the operand's shape where ONNX infers none although the operator keeps it; tell whether any was."""
    filled = False
    for node in graph:
        if operator_name(node) not in _KEEPS_SHAPE:
            continue
        x, y = input_of(node, 0), node.outputs[0]
        if y.shape is None and x.shape is not None:
            y.shape, y.type = x.shape, x.type
            filled = True
    return filled
