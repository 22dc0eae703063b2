"""Multipliers of maxima and minima: the cross-maximum.

Each end's maximum gets the change beyond the other's. At the window's maximum the operand rose by no less than the
maximum did, at the reference's it fell by no less: neither quotient has a vanishing denominator where anything is due,
and differences of what is only chosen are not rounded: the quotient is taken wherever there is any.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rule_sets.multipliers.differences import ends, ratio, slope
from tonescope_server.gradients.rules import elementwise
from tonescope_server.gradients.rules.elementwise import required


def crossed(winners: Rule) -> Rule:
    """Make the cross-maximum of an operator from its standard rule, which sends a cotangent to who won."""

    def rule(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
        """The cross-maximum: each end's maximum gets the change beyond the other's; overlapping windows add up."""
        g, y = required(cotangents[0]), node.outputs[0]
        y0 = ctx.reference(y)
        there = y0.producer()
        if there is None or there is node:
            raise ctx.unsupported(node, "its operand does not depend on the input")
        for mine, theirs in zip(node.inputs, there.inputs, strict=True):
            if theirs is not None and ctx.need(mine):
                ctx.also_need(theirs)
        cross = ctx.op("Min" if node.op_type in ("Min", "ReduceMin") else "Max", y, y0)
        up = ctx.typed(ctx.op("Mul", g, ctx.op("Sub", cross, y0)), y)
        down = ctx.typed(ctx.op("Mul", g, ctx.op("Sub", y, cross)), y)
        ends = winners(ctx, node, [up]), winners(ctx, there, [down]), winners(ctx, node, [g])
        return [
            _over_change(ctx, required(x), *parts) if ctx.need(x) else None
            for x, *parts in zip(node.inputs, *ends, strict=False)
        ]

    return rule


def _over_change(
    ctx: Context, x: ir.Value, up: ir.Value | None, down: ir.Value | None, gradient: ir.Value | None
) -> ir.Value:
    both = ends(ctx, x)
    return ratio(ctx, ctx.op("Add", up, down), ctx.op("Sub", *both), ctx.op("Equal", *both), gradient)


def extreme(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``max(a, b) = a + relu(b − a)``, and for min with the signs turned; of more operands, the cross-maximum."""
    if len(node.inputs) != 2:
        return crossed(elementwise.extreme)(ctx, node, cotangents)
    g = required(cotangents[0])
    a, b = required(node.inputs[0]), required(node.inputs[1])
    gap = ctx.op("Sub", b, a)
    gap0 = ctx.op("Sub", ctx.reference(b), ctx.reference(a))
    if node.op_type == "Min":
        gap, gap0 = ctx.op("Neg", gap), ctx.op("Neg", gap0)
    gaps = gap, gap0
    step = ctx.op("Cast", ctx.op("Greater", gap, ctx.scalar(0.0, a)), to=int(ctx.dtype(a)))
    to_b = ctx.op("Mul", g, slope(ctx, [ctx.op("Relu", v) for v in gaps], gaps, step))
    result = node.outputs[0]
    return [
        ctx.unbroadcast(ctx.op("Sub", g, to_b), a, result) if ctx.need(a) else None,
        ctx.unbroadcast(to_b, b, result) if ctx.need(b) else None,
    ]
