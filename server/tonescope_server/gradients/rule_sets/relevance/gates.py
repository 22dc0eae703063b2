"""Values that gate themselves: x times a function of x alone, as exporters spell GELU, SiLU, Mish or hard swish.

Such a product is one function of one element, whichever way it is written: its relevance is that of x. Taken node by
node, the 1 in ``x · ½ · (1 + erf(x/√2))`` would count as a bias, and absorb what belongs to x.
"""

from __future__ import annotations

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import operator_name
from tonescope_server.gradients.rules import unary


def gated(ctx: Context, node: ir.Node) -> int | None:
    """Return which operand of a product is gated by a function of itself alone, the other; None where none is."""
    a, b = node.inputs
    if a is None or b is None:
        return None
    for index, (signal, gate) in enumerate(((a, b), (b, a))):
        if _same_shape(ctx, signal, node.outputs[0]) and _is_function_of(ctx, gate, _unscaled(ctx, signal)):
            return index
    return None


def _unscaled(ctx: Context, value: ir.Value) -> ir.Value:
    """Return what a value was before it was multiplied, or divided, by what does not depend on the input."""
    while (node := value.producer()) is not None and operator_name(node) in _SCALES:
        before = [v for v in node.inputs if v is not None and ctx.need(v)]
        if len(before) != 1 or not _same_shape(ctx, before[0], value):
            break
        if operator_name(node) == "Div" and before[0] is not node.inputs[0]:
            break
        value = before[0]
    return value


def _is_function_of(ctx: Context, value: ir.Value, root: ir.Value) -> bool:
    """Tell whether each element of a value depends on the input only through that element of ``root``."""
    waiting, seen = [value], {root}
    while waiting:
        found = waiting.pop()
        if found in seen:
            continue
        seen.add(found)
        node = found.producer()
        if node is None or operator_name(node) not in _ELEMENTWISE or not _same_shape(ctx, found, root):
            return False
        waiting.extend(v for v in node.inputs if v is not None and ctx.need(v))
    return True


def _same_shape(ctx: Context, value: ir.Value, other: ir.Value) -> bool:
    return value.shape is not None and other.shape is not None and ctx.dims(value) == ctx.dims(other)


_SCALES = ("Mul", "Div", "Identity", "Cast")
_ELEMENTWISE = frozenset(
    {*unary.RULES, "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Identity", "Cast", "CastLike", "Dropout",
     "Add", "Sub", "Sum", "Mul", "Div", "Pow", "Min", "Max"}
)  # fmt: skip
