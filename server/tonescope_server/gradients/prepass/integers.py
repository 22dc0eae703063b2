"""Small integers that are known before anything runs: what shapes, axes, slices and conditions are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from tonescope_server.gradients.context import constant_of
from tonescope_server.gradients.prepass._graph import input_of
from tonescope_server.gradients.rule_set import operator_name

MOST_FOLDED = 64  # elements: shapes, not tables

_UNKNOWN = -(2**40) - 1  # no size, axis or index, nor what stands for either end of an axis
_MOST_NAMES = 2**20


class Known(dict[ir.Value, Any]):
    """By value its elements. Those that are not known are at most ``_UNKNOWN``; each named size has one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []

    def element(self, dim: int | ir.SymbolicDim) -> int:
        """Return what stands for a size."""
        if isinstance(dim, int) or dim.value is None:
            return dim if isinstance(dim, int) else _UNKNOWN
        if dim.value not in self._names:
            self._names.append(dim.value)
        return _UNKNOWN - 1 - self._names.index(dim.value)

    def sizes(self, value: ir.Value) -> list[int | str | None] | None:
        """Return a value's elements as sizes: numbers or names, None for one that is neither; None for no such list."""
        if value not in self or self[value].dtype != np.int64 or self[value].ndim != 1:
            return None
        return [self._size(element) for element in self[value].tolist()]

    def _size(self, element: int) -> int | str | None:
        number = _UNKNOWN - 1 - element
        if 0 <= number < len(self._names):
            return self._names[number]
        return None if element == _UNKNOWN else element


# These only move elements: what is not known stays itself. All others need every element.
_MOVES = frozenset({"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"})
_WORKED_OUT = _MOVES | {
    "Abs", "Add", "And", "Cast", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
    "Mod", "Mul", "Neg", "Not", "Or", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Sub", "Where", "Xor",
}  # fmt: skip
_FAILS = (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError)


def fold_integers(model: ir.Model) -> tuple[Known, bool]:
    """Make constants, in place, of small integers that follow from constants and from static sizes.

    ONNX's inference looks through few operators: a Slice whose end is a Reshape of a Constant leaves everything after
    it without a rank, which is how torch's older exporter writes attention.

    Returns:
        What is known, truth values and sizes known in part included; and whether any new constant was made.
    """
    known = Known()
    folded = False
    for graph in list(model.graphs()):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.size <= MOST_FOLDED:
                _learn(known, value, value.const_value.numpy())
        for node in list(graph):
            folded = _brought_in(graph, node, known) or folded
            found = _results(model, node, known)
            for value, elements in zip(node.outputs, found, strict=False):
                _learn(known, value, elements)
            if operator_name(node) not in ("Constant", "Identity") and all(_is_whole(known, v) for v in node.outputs):
                _replace(graph, node, known)
                folded = True
    return known, folded


def _brought_in(graph: ir.Graph, node: ir.Node, known: Known) -> bool:
    """Give a node of an inner graph constants of its own for integers from around it; tell whether there were any.

    ONNX's inference does not look out of an inner graph for the elements of what is read there.
    """
    outer = [
        (i, v) for i, v in enumerate(node.inputs) if v is not None and v.graph is not graph and _is_whole(known, v)
    ]
    for i, value in outer:
        made = ir.node("Constant", [], {"value": ir.tensor(known[value])})
        graph.insert_before(node, made)
        made.outputs[0].name = f"{value.name}:for:{node.outputs[0].name}:{i}"
        node.replace_input_with(i, made.outputs[0])
        _learn(known, made.outputs[0], known[value])
    return bool(outer)


def _learn(known: Known, value: ir.Value, elements: Any) -> None:
    if elements is not None and elements.dtype.kind in "iub" and elements.size <= MOST_FOLDED:
        known[value] = elements


def _is_whole(known: Known, value: ir.Value) -> bool:
    """Tell whether a value is of integers that are all known."""
    return value in known and known[value].dtype.kind in "iu" and not _unsure(known[value])


def _unsure(elements: Any) -> bool:
    return elements.dtype == np.int64 and bool(
        ((elements <= _UNKNOWN) & (elements > _UNKNOWN - _MOST_NAMES)).any()  # below are the ends of an axis
    )


def _replace(graph: ir.Graph, node: ir.Node, known: Known) -> None:
    named = len(node.outputs) == 1
    made = [
        ir.node("Constant", [], {"value": ir.tensor(known[v])}, name=node.name if named else f"{node.name}:{k}")
        for k, v in enumerate(node.outputs)
    ]
    old, new = list(node.outputs), [constant.outputs[0] for constant in made]
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, old, new)
    known.update(zip(new, (known[v] for v in old), strict=True))


def _results(model: ir.Model, node: ir.Node, known: Known) -> list[Any]:
    kind = operator_name(node)
    if kind == "Constant":
        return [constant_of(node)]
    if kind in ("Shape", "Size"):
        dims = _dims(node, known)
        whole = dims is not None and not _unsure(dims)
        return [dims] if kind == "Shape" else [np.asarray(math.prod(dims.tolist()), np.int64) if whole else None]
    operands = [known.get(v) for v in node.inputs if v is not None]
    if kind == "Range" and all(v is not None and not _unsure(v) for v in operands):
        # ONNX's own AffineGrid hands it vectors of one, which neither the reference nor ONNX Runtime takes.
        return [np.arange(*(np.asarray(v).item() for v in operands), dtype=np.asarray(operands[0]).dtype)]
    if kind not in _WORKED_OUT or not operands or any(v is None for v in operands):
        return []
    # To the type that sizes have, a Cast changes nothing, and exporters write one.
    moves = kind in _MOVES or (kind == "Cast" and node.attributes["to"].as_int() == ir.DataType.INT64)
    data = len(operands) if kind == "Concat" else 1 if moves else 0
    if any(_unsure(v) for v in operands[data:]):
        return []
    try:
        return _evaluated(model, node, known)
    except _FAILS:
        return []  # what cannot be worked out here may still be right where it runs, or never run


def _dims(node: ir.Node, known: Known) -> Any:
    """Return what a Shape or a Size is asked for; None where the rank is not known."""
    shape = input_of(node, 0).shape
    if shape is None:
        return None
    start, end = (node.attributes[k].as_int() if k in node.attributes else None for k in ("start", "end"))
    dims = [known.element(d) for d in shape]
    return np.asarray(dims[start:end], np.int64)


def _evaluated(model: ir.Model, node: ir.Node, known: Mapping[ir.Value, Any]) -> list[Any]:
    """Return the results of one node by ONNX's own reference implementation."""
    operands = dict.fromkeys(v for v in node.inputs if v is not None)
    names = {v: f"i{k}" for k, v in enumerate(operands)}
    proto = ir.to_proto(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if v is None else names[v] for v in node.inputs)
    proto.output.extend(f"o{k}" for k in range(len(node.outputs)))
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(known[v].dtype), known[v].shape)
        for v, name in names.items()
    ]
    graph = onnx.helper.make_graph([proto], "one", inputs, [onnx.ValueInfoProto(name=o) for o in proto.output])
    opset = onnx.helper.make_opsetid("", model.opset_imports.get("", 18))
    evaluator: Any = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[opset]))
    found = evaluator.run(None, {name: known[v] for v, name in names.items()})
    return [np.asarray(v) for v in found]
