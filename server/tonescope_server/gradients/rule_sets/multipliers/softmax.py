"""Multipliers of the two softmaxes and of the logarithm of a sum of exponentials, taken apart through log p.

``log p = x − log Σ exp x`` and ``p = exp(log p)``. With ``Lᵢ = Δpᵢ/Δlog pᵢ``, the logarithmic mean of pᵢ at both ends,
``Δ log Σ exp x = Σ wᵢ·Δxᵢ`` with ``wᵢ = Lᵢ/Σ L``: exactly, for ``Σ L·Δlog p = Σ Δp = 0``. Weights lie between 0 and 1
and sum to 1, so that no part is larger than the changes are, however far the logits lie apart; and multipliers do not
change with a constant that is added to all logits of one end.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents
from tonescope_server.gradients.rule_sets.multipliers.differences import bounded, is_small
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.reduction import kept, reduced_axes


def softmax(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``p = exp(log p)``, rescaled: ``L·(g − Σ wg)`` with ``L = Δp/Δlog p`` and ``w = L/ΣL``."""
    g = required(cotangents[0])
    axis = ctx.ints([ctx.attribute(node, "axis", -1)])
    means, weights = _shares(ctx, node, axis)
    along = ctx.op("ReduceSum", ctx.op("Mul", weights, g), axis, keepdims=1)
    return [ctx.op("Mul", means, ctx.op("Sub", g, along))]


def log_softmax(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g − w·Σ g``, with weights as for Softmax."""
    g = required(cotangents[0])
    axis = ctx.ints([ctx.attribute(node, "axis", -1)])
    total = ctx.op("ReduceSum", g, axis, keepdims=1)
    return [ctx.op("Sub", g, ctx.op("Mul", total, _shares(ctx, node, axis)[1]))]


def reduce_log_sum_exp(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g·w``, with weights as for Softmax."""
    axes = reduced_axes(ctx, node)
    if axes == []:  # each element by itself: the logarithm of its exponential
        return [cotangents[0]]
    where = ctx.ints(range(ctx.rank(required(node.inputs[0]))) if axes is None else axes)
    return [ctx.op("Mul", kept(ctx, node, required(cotangents[0])), _shares(ctx, node, where)[1])]


def _shares(ctx: Context, node: ir.Node, axes: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the logarithmic mean of p at both ends, and its shares of their sum."""
    operand = required(node.inputs[0])
    here, there = (_log_p(ctx, bounded(ctx, v), axes) for v in (operand, ctx.reference(operand)))
    gap = ctx.op("Abs", ctx.op("Sub", here, there))
    one = ctx.scalar(1.0, operand)
    # (1 − e⁻ᵈ)/d, with a tangent: nothing cancels where the ends are close, nothing overflows where they are far.
    t = ctx.op("Tanh", ctx.op("Mul", gap, ctx.scalar(0.5, operand)))
    close = is_small(ctx, gap)
    over = ctx.op("Mul", ctx.op("Add", one, t), ctx.op("Where", close, one, gap))
    factor = ctx.op("Where", close, one, ctx.op("Div", ctx.op("Add", t, t), over))
    means = ctx.op("Mul", ctx.op("Exp", ctx.op("Max", here, there)), factor)
    return means, ctx.op("Div", means, ctx.op("ReduceSum", means, axes, keepdims=1))


def _log_p(ctx: Context, x: ir.Value, axes: ir.Value) -> ir.Value:
    """Return ``x − log Σ exp x``, with the end's own maximum taken away before the exponentials."""
    shifted = ctx.op("Sub", x, ctx.op("ReduceMax", x, axes, keepdims=1))
    total = ctx.op("ReduceSum", ctx.op("Exp", shifted), axes, keepdims=1)
    return ctx.op("Sub", shifted, ctx.op("Log", total))
