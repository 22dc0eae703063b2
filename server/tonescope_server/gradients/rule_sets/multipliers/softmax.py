"""Multipliers of the two softmaxes and of the logarithm of a sum of exponentials: taken apart, with one shift."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents
from tonescope_server.gradients.rule_sets.multipliers.differences import ratio
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.reduction import kept, reduced_axes


def softmax(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Taken apart: ``e = exp(x − c)``, ``s = Σ e``, ``y = e·(1/s)``, with one c for both ends."""
    g, y = required(cotangents[0]), node.outputs[0]
    axis = ctx.ints([ctx.attribute(node, "axis", -1)])
    e, e0, slope = _exponentials(ctx, node, axis)
    s, s0 = ctx.op("ReduceSum", e, axis, keepdims=1), ctx.op("ReduceSum", e0, axis, keepdims=1)
    half = ctx.scalar(0.5, y)
    inverse = ctx.op("Mul", ctx.op("Add", ctx.op("Reciprocal", s), ctx.op("Reciprocal", s0)), half)
    mean = ctx.op("Mul", ctx.op("Add", e, e0), half)
    along = ctx.op("ReduceSum", ctx.op("Mul", g, mean), axis, keepdims=1)
    by_sum = ctx.op("Div", along, ctx.op("Mul", s, s0))
    by_e = ctx.op("Sub", ctx.op("Mul", g, inverse), by_sum)
    return [ctx.op("Mul", by_e, slope)]


def log_softmax(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Taken apart: ``x − c − log Σ exp(x − c)``, with one c for both ends."""
    g = required(cotangents[0])
    axis = ctx.ints([ctx.attribute(node, "axis", -1)])
    total = ctx.op("ReduceSum", g, axis, keepdims=1)
    return [ctx.op("Sub", g, ctx.op("Mul", total, _log_of_sum(ctx, node, axis)))]


def reduce_log_sum_exp(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Taken apart: ``c + log Σ exp(x − c)``, with one c for both ends."""
    axes = reduced_axes(ctx, node)
    where = ctx.ints(range(ctx.rank(required(node.inputs[0]))) if axes is None else axes)
    return [ctx.op("Mul", kept(ctx, node, required(cotangents[0])), _log_of_sum(ctx, node, where))]


def _log_of_sum(ctx: Context, node: ir.Node, axes: ir.Value) -> ir.Value:
    """Return the multiplier of ``log Σ exp x`` by x."""
    e, e0, slope = _exponentials(ctx, node, axes)
    s, s0 = ctx.op("ReduceSum", e, axes, keepdims=1), ctx.op("ReduceSum", e0, axes, keepdims=1)
    logs = ctx.op("Sub", ctx.op("Log", s), ctx.op("Log", s0))
    return ctx.op("Mul", ratio(ctx, logs, ctx.op("Sub", s, s0), ctx.op("Reciprocal", s)), slope)


def _exponentials(ctx: Context, node: ir.Node, axes: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return ``exp(x − c)`` at both ends, and Δ of it over Δx; −∞, a mask's, counts as a finite number."""
    operand = required(node.inputs[0])
    least = ctx.scalar(-1e4 if ctx.dtype(operand) == ir.DataType.FLOAT16 else -1e30, operand)
    x, x0 = (ctx.op("Max", v, least) for v in (operand, ctx.reference(operand)))
    most = ctx.op("ReduceMax", ctx.op("Max", x, x0), axes, keepdims=1)
    e, e0 = ctx.op("Exp", ctx.op("Sub", x, most)), ctx.op("Exp", ctx.op("Sub", x0, most))
    return e, e0, ratio(ctx, ctx.op("Sub", e, e0), ctx.op("Sub", x, x0), e)
