"""Multipliers of steps: of rounding, comparisons and logic, whose derivative is zero but whose change is not.

What is true or false, or an integer, counts as a number here: its multiplier is a float32 value of its shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.activity import is_float
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents
from tonescope_server.gradients.rule_sets.multipliers.differences import ends, mean_of, returned, slope
from tonescope_server.gradients.rules.elementwise import required


def step(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The rescale rule: how far the result jumped, over how far the operand went; zero where that did not move."""
    x = ends(ctx, node.inputs[0])
    jump = slope(ctx, ends(ctx, node.outputs[0]), x, ctx.scalar(0.0, x[0]))
    return [ctx.op("Mul", cotangents[0], jump)]


def comparison(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """A step of ``a − b``, rescaled: 1 where it became true, −1 where it ceased to be, over how far ``a − b`` went."""
    g, y = required(cotangents[0]), node.outputs[0]
    a, b = required(node.inputs[0]), required(node.inputs[1])
    pairs = zip(ends(ctx, a), ends(ctx, b), strict=True)
    gaps = [ctx.op("Sub", as_number(ctx, u), as_number(ctx, v)) for u, v in pairs]
    step = slope(ctx, _numbers(ctx, y), gaps, ctx.constant(0.0, "float32"))
    back = _shaped(ctx, ctx.op("Mul", g, step), y)
    return [returned(ctx, back, a, y), returned(ctx, ctx.op("Neg", back), b, y)]


def negation(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``1 − a``."""
    return [ctx.op("Neg", cotangents[0])]


def conjunction(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``a·b``: the other operand, averaged over both ends."""
    return _logic(ctx, node, cotangents, 0.0, 1.0)


def disjunction(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``a + b − a·b``, as a product with averages."""
    return _logic(ctx, node, cotangents, 1.0, -1.0)


def exclusion(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``a + b − 2·a·b``, as a product with averages."""
    return _logic(ctx, node, cotangents, 1.0, -2.0)


def cast(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As it is, to a type that holds the number; a step, rescaled, where it truncates or asks whether it is zero."""
    x, y = required(node.inputs[0]), node.outputs[0]
    kind = int(ctx.dtype(x) if is_float(x) else ir.DataType.FLOAT)
    g = ctx.op("Cast", cotangents[0], to=kind)
    if is_float(y) or ctx.dtype(x) == ir.DataType.BOOL or not (is_float(x) or ctx.dtype(y) == ir.DataType.BOOL):
        return [g]
    jump = slope(ctx, _numbers(ctx, y), _numbers(ctx, x), ctx.constant(0.0, "float32"))
    return [ctx.op("Mul", g, ctx.op("Cast", jump, to=kind))]


def as_number(ctx: Context, value: ir.Value) -> ir.Value:
    """Return a value of any type in float32."""
    return value if value.dtype == ir.DataType.FLOAT else ctx.op("Cast", value, to=int(ir.DataType.FLOAT))


def _logic(
    ctx: Context, node: ir.Node, cotangents: Cotangents, alone: float, together: float
) -> Sequence[ir.Value | None]:
    """Return the multipliers of ``alone·(a + b) + together·a·b``."""
    g, y = required(cotangents[0]), node.outputs[0]
    found: list[ir.Value | None] = []
    for operand, other in zip(node.inputs, reversed(node.inputs), strict=True):
        share = ctx.op("Mul", _mean(ctx, required(other)), ctx.constant(together, "float32"))
        back = ctx.op("Mul", g, ctx.op("Add", share, ctx.constant(alone, "float32")))
        found.append(returned(ctx, _shaped(ctx, back, y), required(operand), y))
    return found


def _mean(ctx: Context, value: ir.Value) -> ir.Value:
    return mean_of(ctx, *_numbers(ctx, value))


def _numbers(ctx: Context, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    here, there = (as_number(ctx, v) for v in ends(ctx, value))
    return here, there


def _shaped(ctx: Context, multiplier: ir.Value, value: ir.Value) -> ir.Value:
    multiplier.shape = value.shape
    return multiplier
