"""Arithmetic between two values, element by element, with broadcasting; and what passes a value on unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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


def dropout(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The cotangent itself: outside training nothing is dropped.

    Refused: training_mode.
    """
    training = node.inputs[2] if len(node.inputs) > 2 else None
    known = ctx.value_of(training)
    if training is not None and (known is None or bool(np.any(known))):
        raise ctx.unsupported(node, "training_mode: what it drops is drawn anew in every run")
    return [cotangents[0]]


def cast(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Cast back to the operand's type: the derivative of a cast between floating types is one."""
    x = required(node.inputs[0])
    return [ctx.op("Cast", cotangents[0], to=int(ctx.dtype(x)))]


def _back(ctx: Context, node: ir.Node, index: int, cotangent: ir.Value) -> ir.Value | None:
    """Return an operand's cotangent, summed over the axes along which it was broadcast."""
    operand = required(node.inputs[index])
    return ctx.unbroadcast(cotangent, operand, node.outputs[0]) if ctx.need(operand) else None


def power(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``d(aᵇ) = b·aᵇ⁻¹·da + aᵇ·log a·db``; nothing for da where b is 0, and for db where a is 0 and b is not below."""
    g = required(cotangents[0])
    a, b = required(node.inputs[0]), required(node.inputs[1])
    found: list[ir.Value | None] = [None, None]
    exponent = b if ctx.dtype(a) == ctx.dtype(b) else ctx.op("Cast", b, to=int(ctx.dtype(a)))
    if ctx.need(a):
        less = ctx.op("Sub", exponent, ctx.scalar(1.0, a))
        slope = ctx.op("Mul", exponent, ctx.op("Pow", a, less))
        known = ctx.value_of(b)
        if known is None or not np.all(known):  # 0 times 0⁻¹ would be no number
            slope = ctx.op("Where", ctx.op("Equal", exponent, ctx.scalar(0.0, a)), ctx.scalar(0.0, a), slope)
        found[0] = _back(ctx, node, 0, ctx.op("Mul", g, slope))
    if ctx.need(b):
        zero = ctx.scalar(0.0, a)
        flat = ctx.op("And", ctx.op("Equal", a, zero), ctx.op("GreaterOrEqual", exponent, zero))
        steep = ctx.op("Where", flat, zero, ctx.op("Mul", node.outputs[0], ctx.op("Log", a)))
        found[1] = _back(ctx, node, 1, ctx.op("Mul", g, steep))
    return found


def where(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g`` to the operand that was chosen, zero to the other."""
    g, condition = required(cotangents[0]), required(node.inputs[0])
    zero = ctx.scalar(0.0, g)
    return [
        None,
        _back(ctx, node, 1, ctx.op("Where", condition, g, zero)) if ctx.need(node.inputs[1]) else None,
        _back(ctx, node, 2, ctx.op("Where", condition, zero, g)) if ctx.need(node.inputs[2]) else None,
    ]


def extreme(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g`` to the operand that is the maximum (minimum), in equal parts where several are; serves Max and Min."""
    g = required(cotangents[0])
    dtype = int(ctx.dtype(g))
    hits = [ctx.op("Cast", ctx.op("Equal", v, node.outputs[0]), to=dtype) for v in node.inputs]
    if len(hits) > 1:
        g = ctx.op("Div", g, ctx.op("Sum", *hits))
    return [
        _back(ctx, node, i, ctx.op("Mul", g, hit)) if ctx.need(node.inputs[i]) else None for i, hit in enumerate(hits)
    ]


def several_sum(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g`` to every operand; for Mean, over their number."""
    g = required(cotangents[0])
    if node.op_type == "Mean":
        g = ctx.op("Div", g, ctx.scalar(float(len(node.inputs)), g))
    return [_back(ctx, node, i, g) for i in range(len(node.inputs))]


def modulo(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``d(a mod b) = da − [a/b]·db``, the quotient truncated, as fmod does for floating point."""
    g = required(cotangents[0])
    a, b = required(node.inputs[0]), required(node.inputs[1])
    found: list[ir.Value | None] = [_back(ctx, node, 0, g), None]
    if ctx.need(b):
        quotient = ctx.op("Div", ctx.op("Sub", a, node.outputs[0]), b)
        found[1] = _back(ctx, node, 1, ctx.op("Neg", ctx.op("Mul", g, ctx.op("Round", quotient))))
    return found


RULES: dict[str, Rule] = {
    "Add": add,
    "Sub": sub,
    "Mul": mul,
    "Div": div,
    "Identity": identity,
    "Cast": cast,
    "CastLike": cast,
    "Pow": power,
    "Where": where,
    "Max": extreme,
    "Min": extreme,
    "Sum": several_sum,
    "Mean": several_sum,
    "Mod": modulo,
    "Dropout": dropout,
}
