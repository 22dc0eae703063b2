"""Arithmetic between two values, element by element, with broadcasting; and what passes a value on unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule, accepts_unexpanded


def required(value: ir.Value | None) -> ir.Value:
    """Return a value that ONNX guarantees to be there."""
    assert value is not None
    return value


def add(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``d(a + b) = da + db``."""
    return [_back(ctx, node, i, required(cotangents[0])) for i in range(2)]


def sub(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``d(a − b) = da − db``."""
    g = required(cotangents[0])
    negative = ctx.op("Neg", g) if ctx.need(node.inputs[1]) else g
    return [_back(ctx, node, 0, g), _back(ctx, node, 1, negative)]


def mul(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``d(a·b) = b·da + a·db``."""
    g = required(cotangents[0])
    a, b = required(node.inputs[0]), required(node.inputs[1])
    return [
        _back(ctx, node, 0, ctx.op("Mul", g, b)) if ctx.need(a) else None,
        _back(ctx, node, 1, ctx.op("Mul", g, a)) if ctx.need(b) else None,
    ]


def div(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``d(a/b) = da/b − (a/b)·db/b``; the quotient is read from the forward pass."""
    g = required(cotangents[0])
    a, b = required(node.inputs[0]), required(node.inputs[1])
    over = ctx.op("Div", g, b)
    return [
        _back(ctx, node, 0, over) if ctx.need(a) else None,
        _back(ctx, node, 1, ctx.op("Neg", ctx.op("Mul", over, node.outputs[0]))) if ctx.need(b) else None,
    ]


@accepts_unexpanded
def identity(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The cotangent itself."""
    return [cotangents[0]]


def cast(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Cast back to the operand's type: the derivative of a cast between floating types is one."""
    x = required(node.inputs[0])
    return [ctx.op("Cast", cotangents[0], to=int(ctx.dtype(x)))]


def _back(ctx: Context, node: ir.Node, index: int, cotangent: ir.Value) -> ir.Value | None:
    """Return an operand's cotangent, summed over the axes along which it was broadcast."""
    operand = required(node.inputs[index])
    return ctx.unbroadcast(cotangent, operand, node.outputs[0]) if ctx.need(operand) else None


RULES: dict[str, Rule] = {
    "Add": add,
    "Sub": sub,
    "Mul": mul,
    "Div": div,
    "Identity": identity,
    "Cast": cast,
}
