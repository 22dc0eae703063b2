"""Results of a finished graph: their element types and ranks stated, and no shape kept that may no longer be true.

Knows no method and no target: what is a result is decided on the tape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx.defs
import onnx_ir as ir

from tonescope_server.gradients.subgraphs import graphs_of, with_inner

_STATED = {"Cast": "to", "ConstantOfShape": "value", "EyeLike": "dtype", "RandomNormalLike": "dtype"}
"""Operators that state the type of their result in an attribute."""


def state_types(model: ir.Model, shapes: Mapping[ir.Value, Sequence[int | None]]) -> None:
    """State type and shape of every graph output, and drop the shapes of everything else that is computed.

    Along a path, or with targets folded into it, the model's batch axis is no longer the windows'. ONNX Runtime shares
    buffers between values whose symbolic sizes have the same name, and fails at run time where the sizes then differ.
    It infers shapes itself; types are kept. A model is not valid, though, unless its outputs have a type and a rank.

    Args:
        model: changed in place.
        shapes: for each output its sizes, None for one that is known at run time only: those have no name.
    """
    for node in with_inner(model.graph):
        for value in (*node.outputs, *(v for inner in graphs_of(node) for v in inner.inputs)):
            value.shape = None
    for value in model.graph.outputs:
        if value.type is None:
            kind = element_type(value, model.opset_imports)
            value.type = None if kind is None else ir.TensorType(kind)
        if value in shapes:
            value.shape = ir.Shape(shapes[value])


def element_type(value: ir.Value | None, opsets: Mapping[str, int]) -> ir.DataType | None:
    """Return a value's element type: its own, or what its operator makes of its operands'; None if that is not known.

    ONNX's own inference would tell too, but serialises the whole model, weights and all, for it.
    """
    while value is not None and value.dtype is None:
        node = value.producer()
        if node is None:
            return None
        if node.op_type in _STATED and _STATED[node.op_type] in node.attributes:
            return _stated(node.attributes[_STATED[node.op_type]])
        if graphs_of(node):
            value = _inner_result(node, value.index() or 0)
            continue
        found = _by_schema(node, value.index() or 0, opsets)
        if isinstance(found, ir.DataType):
            return found
        value = found
    return None if value is None else value.dtype


def _stated(attribute: ir.Attr) -> ir.DataType:
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().dtype
    return ir.DataType(attribute.as_int())


def _inner_result(node: ir.Node, index: int) -> ir.Value | None:
    """Return what a result is inside: an If's and a Scan's are those of its graph, in their order."""
    outputs = graphs_of(node)[0].outputs
    return outputs[index] if node.op_type in ("If", "Scan") and index < len(outputs) else None


def _by_schema(node: ir.Node, index: int, opsets: Mapping[str, int]) -> ir.DataType | ir.Value | None:
    """Return the type that a result always has, or an operand of its type, by the operator's specification."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None
    kind = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    if kind.startswith("tensor("):
        return _NAMES.get(kind.removeprefix("tensor(").removesuffix(")"))
    for k, operand in enumerate(node.inputs):
        if schema.inputs[min(k, len(schema.inputs) - 1)].type_str == kind and operand is not None:
            return operand
    allowed = {s for c in schema.type_constraints if c.type_param_str == kind for s in c.allowed_type_strs}
    return _NAMES.get(next(iter(allowed)).removeprefix("tensor(").removesuffix(")")) if len(allowed) == 1 else None


_NAMES: Mapping[str, ir.DataType] = {
    "bool": ir.DataType.BOOL,
    "int32": ir.DataType.INT32,
    "int64": ir.DataType.INT64,
    "float": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "double": ir.DataType.DOUBLE,
}
"""The types that an operator may always give, as the specification writes them."""
