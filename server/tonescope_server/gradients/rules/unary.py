"""Functions of one element: each is its derivative, in terms of the operand x and the result y."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, sqrt

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required

Derivative = Callable[[Context, ir.Node, ir.Value, ir.Value], ir.Value]


def unary(derivative: Derivative) -> Rule:
    """Make the rule ``g · derivative`` of an elementwise function."""

    def rule(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
        return [ctx.op("Mul", cotangents[0], derivative(ctx, node, required(node.inputs[0]), node.outputs[0]))]

    rule.__doc__ = derivative.__doc__
    return rule


def negative(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``−g``."""
    return [ctx.op("Neg", cotangents[0])]


def clip(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g`` inside the bounds and on them, zero outside.

    ONNX cannot tell hardtanh, whose derivative at a bound is 0, from clamp, where it is 1: this is clamp's.

    Refused: bounds that depend on the input.
    """
    g, x = required(cotangents[0]), required(node.inputs[0])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its bounds depend on the input")
    # What lies inside the bounds, or on them, is what Clip leaves as it is: one comparison in place of two.
    return [ctx.op("Where", ctx.op("Equal", x, node.outputs[0]), g, ctx.scalar(0.0, x))]


def prelu(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g`` where ``x ≥ 0``, ``slope·g`` where ``x < 0``; the slope's is ``x·g`` where ``x < 0``."""
    g, x, slope = required(cotangents[0]), required(node.inputs[0]), required(node.inputs[1])
    below = ctx.op("Less", x, ctx.scalar(0.0, x))
    by_x = ctx.op("Where", below, ctx.op("Mul", g, slope), g) if ctx.need(x) else None
    if not ctx.need(slope):
        return [by_x]
    by_slope = ctx.op("Where", below, ctx.op("Mul", g, x), ctx.scalar(0.0, x))
    return [by_x, ctx.unbroadcast(by_slope, slope, node.outputs[0])]


def _absolute(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``g · sign x``."""
    return ctx.op("Sign", x)


def _exp(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``g · y``."""
    return y


def _log(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``g / x``."""
    return ctx.op("Reciprocal", x)


def _sqrt(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``g / 2y``."""
    return ctx.op("Div", ctx.scalar(0.5, x), y)


def _reciprocal(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``−g·y²``."""
    return ctx.op("Neg", ctx.op("Mul", y, y))


def _erf(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``g · 2/√π · exp(−x²)``."""
    return ctx.op("Mul", ctx.op("Exp", ctx.op("Neg", ctx.op("Mul", x, x))), ctx.scalar(2.0 / sqrt(pi), x))


def _sin(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``g · cos x``."""
    return ctx.op("Cos", x)


def _cos(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``−g · sin x``."""
    return ctx.op("Neg", ctx.op("Sin", x))


def _gelu(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``Φ(x) + x·φ(x)``; for the tanh approximation, its own derivative."""
    one, half = ctx.scalar(1.0, x), ctx.scalar(0.5, x)
    square = ctx.op("Mul", x, x)
    if ctx.attribute(node, "approximate", "none") == "tanh":
        c = sqrt(2.0 / pi)
        cubic = ctx.op("Add", one, ctx.op("Mul", square, ctx.scalar(0.044715, x)))
        t = ctx.op("Tanh", ctx.op("Mul", ctx.op("Mul", x, cubic), ctx.scalar(c, x)))
        slope = ctx.op("Add", ctx.scalar(c, x), ctx.op("Mul", square, ctx.scalar(3 * 0.044715 * c, x)))
        bend = ctx.op("Mul", ctx.op("Mul", x, slope), ctx.op("Sub", one, ctx.op("Mul", t, t)))
        return ctx.op("Mul", half, ctx.op("Add", ctx.op("Add", one, t), bend))
    # HardSigmoid is ½ + ½·erf in one node: its bounds are those of the result.
    cdf = ctx.op("HardSigmoid", ctx.op("Erf", ctx.op("Mul", x, ctx.scalar(sqrt(0.5), x))), alpha=0.5, beta=0.5)
    pdf = ctx.op("Mul", ctx.op("Exp", ctx.op("Mul", square, ctx.scalar(-0.5, x))), ctx.scalar(1 / sqrt(2 * pi), x))
    return ctx.op("Add", cdf, ctx.op("Mul", x, pdf))


def _elu(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """1 above zero, ``y + α`` below."""
    alpha = ctx.scalar(ctx.attribute(node, "alpha", 1.0), x)
    return ctx.op("Where", _below(ctx, x, 0.0), ctx.op("Add", y, alpha), ctx.scalar(1.0, x))


def _selu(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """γ above zero, ``y + γα`` below."""
    alpha = ctx.attribute(node, "alpha", 1.67326319217681884765625)
    gamma = ctx.attribute(node, "gamma", 1.05070102214813232421875)
    below = ctx.op("Add", y, ctx.scalar(alpha * gamma, x))
    return ctx.op("Where", _below(ctx, x, 0.0), below, ctx.scalar(gamma, x))


def _celu(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """1 above zero, ``exp(x/α)`` below."""
    alpha = ctx.scalar(ctx.attribute(node, "alpha", 1.0), x)
    return ctx.op("Where", _below(ctx, x, 0.0), ctx.op("Exp", ctx.op("Div", x, alpha)), ctx.scalar(1.0, x))


def _softplus(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``sigmoid x``."""
    return ctx.op("Sigmoid", x)


def _softsign(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``1/(1 + |x|)²``."""
    root = ctx.op("Reciprocal", ctx.op("Add", ctx.scalar(1.0, x), ctx.op("Abs", x)))
    return ctx.op("Mul", root, root)


def _hard_sigmoid(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """α strictly between the bends."""
    alpha = ctx.attribute(node, "alpha", 0.2)
    return ctx.op("Mul", _inside(ctx, y, 0.0, 1.0), ctx.scalar(alpha, x))


def _hard_swish(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """0 below −3, 1 above 3, ``(2x + 3)/6`` between."""
    line = ctx.op("Div", ctx.op("Add", ctx.op("Mul", x, ctx.scalar(2.0, x)), ctx.scalar(3.0, x)), ctx.scalar(6.0, x))
    above = ctx.op("Where", _below(ctx, x, 3.0), line, ctx.scalar(1.0, x))
    return ctx.op("Where", _below(ctx, x, -3.0), ctx.scalar(0.0, x), above)


def _mish(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``tanh sp + x·sigmoid x·(1 − tanh² sp)`` with ``sp = softplus x``."""
    t = ctx.op("Tanh", ctx.op("Softplus", x))
    rest = ctx.op("Sub", ctx.scalar(1.0, x), ctx.op("Mul", t, t))
    return ctx.op("Add", t, ctx.op("Mul", ctx.op("Mul", x, ctx.op("Sigmoid", x)), rest))


def _thresholded_relu(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """1 above α."""
    alpha = ctx.scalar(ctx.attribute(node, "alpha", 1.0), x)
    return ctx.op("Cast", ctx.op("Greater", x, alpha), to=int(ctx.dtype(x)))


def _shrink(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """1 beyond λ on either side, 0 between."""
    threshold = ctx.scalar(ctx.attribute(node, "lambd", 0.5), x)
    return ctx.op("Cast", ctx.op("Greater", ctx.op("Abs", x), threshold), to=int(ctx.dtype(x)))


def _tan(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``1 + y²``."""
    return ctx.op("Add", ctx.op("Mul", y, y), ctx.scalar(1.0, x))


def _sinh(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``cosh x``."""
    return ctx.op("Cosh", x)


def _cosh(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``sinh x``."""
    return ctx.op("Sinh", x)


def _asin(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``1/√(1 − x²)``."""
    return _inverse_root(ctx, ctx.op("Sub", ctx.scalar(1.0, x), ctx.op("Mul", x, x)))


def _acos(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``−1/√(1 − x²)``."""
    return ctx.op("Neg", _asin(ctx, node, x, y))


def _asinh(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``1/√(x² + 1)``."""
    return _inverse_root(ctx, ctx.op("Add", ctx.op("Mul", x, x), ctx.scalar(1.0, x)))


def _acosh(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``1/√(x² − 1)``."""
    return _inverse_root(ctx, ctx.op("Sub", ctx.op("Mul", x, x), ctx.scalar(1.0, x)))


def _atan(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``1/(1 + x²)``."""
    return ctx.op("Reciprocal", ctx.op("Add", ctx.op("Mul", x, x), ctx.scalar(1.0, x)))


def _atanh(ctx: Context, node: ir.Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """``1/(1 − x²)``."""
    return ctx.op("Reciprocal", ctx.op("Sub", ctx.scalar(1.0, x), ctx.op("Mul", x, x)))


def _inverse_root(ctx: Context, value: ir.Value) -> ir.Value:
    return ctx.op("Reciprocal", ctx.op("Sqrt", value))


def _below(ctx: Context, x: ir.Value, bound: float) -> ir.Value:
    return ctx.op("Less", x, ctx.scalar(bound, x))


def _inside(ctx: Context, y: ir.Value, low: float, high: float) -> ir.Value:
    between = ctx.op("And", ctx.op("Greater", y, ctx.scalar(low, y)), ctx.op("Less", y, ctx.scalar(high, y)))
    return ctx.op("Cast", between, to=int(ctx.dtype(y)))


RULES: dict[str, Rule] = {
    "Neg": negative,
    "Clip": clip,
    "PRelu": prelu,
    "Abs": unary(_absolute),
    "Exp": unary(_exp),
    "Log": unary(_log),
    "Sqrt": unary(_sqrt),
    "Reciprocal": unary(_reciprocal),
    "Erf": unary(_erf),
    "Sin": unary(_sin),
    "Cos": unary(_cos),
    "Gelu": unary(_gelu),
    "Elu": unary(_elu),
    "Selu": unary(_selu),
    "Celu": unary(_celu),
    "Softplus": unary(_softplus),
    "Softsign": unary(_softsign),
    "HardSigmoid": unary(_hard_sigmoid),
    "HardSwish": unary(_hard_swish),
    "Mish": unary(_mish),
    "ThresholdedRelu": unary(_thresholded_relu),
    "Shrink": unary(_shrink),
    "Tan": unary(_tan),
    "Sinh": unary(_sinh),
    "Cosh": unary(_cosh),
    "Asin": unary(_asin),
    "Acos": unary(_acos),
    "Atan": unary(_atan),
    "Asinh": unary(_asinh),
    "Acosh": unary(_acosh),
    "Atanh": unary(_atanh),
}
