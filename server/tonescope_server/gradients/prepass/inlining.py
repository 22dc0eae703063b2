"""Operators that have no rule, replaced by the function that ONNX's specification defines them as."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import onnx
import onnx.inliner
import onnx_ir as ir

from tonescope_server.gradients.prepass.shapes import infer_shapes

MOST_NESTED = 4  # functions of functions: the specification nests two deep, no further


def inline_functions(model: ir.Model, has_rule: Callable[[ir.Node], bool]) -> ir.Model:
    """Replace operators that have no rule by the function that ONNX's specification defines them as.

    Args:
        model: shapes inferred; it is not changed.
        has_rule: tells whether an operator needs no inlining.

    Returns:
        A new model with shapes inferred; the model itself where there is nothing to inline.
    """
    for _ in range(MOST_NESTED):
        names = sorted(
            {n.op_type for n in model.graph.all_nodes() if _carries(n) and not has_rule(n) and _is_function(n, model)}
        )
        if not names:
            return model
        proto = ir.to_proto(model)
        state_defaults(proto.graph, names, model.opset_imports.get("", 18))
        chosen = [("", name) for name in names]
        # The inliner asks for the type of operands that are left out too, and fails where they have none.
        proto.graph.value_info.add(type=onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
        inlined = onnx.inliner.inline_selected_functions(proto, chosen, exclude=False, inline_schema_functions=True)
        for i in reversed([i for i, v in enumerate(inlined.graph.value_info) if not v.name]):
            del inlined.graph.value_info[i]
        model = infer_shapes(ir.from_proto(inlined))
        _name_nodes(model)
    return model


def _carries(node: ir.Node) -> bool:
    """Tell whether a node makes anything of floating point, which alone can carry a gradient."""
    return any(v.dtype is not None and v.dtype.is_floating_point() for v in node.outputs)


def _is_function(node: ir.Node, model: ir.Model) -> bool:
    """Tell whether the specification defines an operator by a function, in the opset that the model uses."""
    if node.domain not in ("", "ai.onnx"):
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, model.opset_imports.get("", 18), "")
    except onnx.defs.SchemaError:
        return False
    found: Any = schema  # onnx's stubs leave both attributes out
    return bool(found.has_function or found.has_context_dependent_function)


def state_defaults(graph: onnx.GraphProto, names: Collection[str], version: int) -> None:
    """Write the default of every attribute that nodes of some operators leave out into them, in place.

    The inliner leaves a Constant without a value where the function's text names an attribute that the node lacks.
    """
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                state_defaults(attribute.g, names, version)
        if node.domain not in ("", "ai.onnx") or node.op_type not in names:
            continue
        stated = {a.name for a in node.attribute}
        for name, declared in onnx.defs.get_schema(node.op_type, version, "").attributes.items():
            if name not in stated and declared.default_value.type:
                node.attribute.append(declared.default_value)


def _name_nodes(model: ir.Model) -> None:
    """Give nodes that came without a name one, so that errors can say which they are."""
    for number, node in enumerate(model.graph.all_nodes()):
        if not node.name:
            node.name = f"inlined_{node.op_type}_{number}"
