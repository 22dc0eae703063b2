"""Multipliers of quotients, powers, remainders, choices and rounding."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents
from tonescope_server.gradients.rule_sets.multipliers.differences import (
    difference,
    quotient,
    ratio,
    unless_small,
)
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.gradients.rules.elementwise import required


def division(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``Δ(x/y) = Δx·(y + y₀)/(y² + y₀²) − Δy·(r₀y + ry₀)/(y² + y₀²)``, with r the quotient."""
    g = required(cotangents[0])
    x, y = required(node.inputs[0]), required(node.inputs[1])
    result = node.outputs[0]
    by_x, by_y = quotient(ctx, (y, ctx.reference(y)), (result, ctx.reference(result)))
    return [
        ctx.unbroadcast(ctx.op("Mul", g, by_x), x, result) if ctx.need(x) else None,
        ctx.unbroadcast(ctx.op("Mul", g, by_y), y, result) if ctx.need(y) else None,
    ]


def power(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The rescale rule by the base; an exponent that depends on the input is refused."""
    if ctx.need(node.inputs[1]):
        raise ctx.unsupported(node, "its exponent depends on the input")
    return [_by_first(ctx, node, cotangents)]


def modulo(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The rescale rule by the dividend; a divisor that depends on the input is refused."""
    if ctx.need(node.inputs[1]):
        raise ctx.unsupported(node, "its divisor depends on the input")
    return [_by_first(ctx, node, cotangents)]


def _by_first(ctx: Context, node: ir.Node, cotangents: Cotangents) -> ir.Value:
    g, x = required(cotangents[0]), required(node.inputs[0])
    derivative = required(STANDARD.rules[node.op_type](ctx, node, cotangents)[0])
    change = difference(ctx, x)
    quotient = ratio(ctx, difference(ctx, node.outputs[0]), change, None)
    return unless_small(ctx, change, derivative, ctx.unbroadcast(ctx.op("Mul", g, quotient), x, node.outputs[0]))


def quantize_linear(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The rescale rule: by how many levels the value differs between the ends, rounded and saturated as it is."""
    x, levels = required(node.inputs[0]), node.outputs[0]
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale depends on the input")
    kind = int(ctx.dtype(x))
    here, there = (ctx.op("Cast", v, to=kind) for v in (levels, ctx.reference(levels)))
    derivative = required(STANDARD.rules["QuantizeLinear"](ctx, node, cotangents)[0])
    change = difference(ctx, x)
    rescaled = ctx.op("Mul", cotangents[0], ratio(ctx, ctx.op("Sub", here, there), change, None))
    return [unless_small(ctx, change, derivative, rescaled)]


def scatter(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The standard rule, where that is linear: a reduction by maximum, minimum or product is refused."""
    reduction = ctx.attribute(node, "reduction", "none")
    if reduction not in ("none", "add"):
        raise ctx.unsupported(node, f"reduction '{reduction}': expected none or add")
    return STANDARD.rules[node.op_type](ctx, node, cotangents)


def choice(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As a product with the condition; where that differs between the ends, the jump goes by |Δ| of the operands.

    ``Δy = c̄·Δa + (1 − c̄)·Δb + J``. The condition cannot carry J, so a gets ``J·|Δa|/(|Δa| + |Δb|)`` and b the rest: of
    a function of one element spelled out as a choice that is the rescale rule. Where neither operand changes, J stays
    with the condition.
    """
    condition = required(node.inputs[0])
    if ctx.reference(condition) is condition:
        return STANDARD.rules["Where"](ctx, node, cotangents)
    g, a, b = required(cotangents[0]), required(node.inputs[1]), required(node.inputs[2])
    kind, one = int(ctx.dtype(a)), ctx.scalar(1.0, a)
    here, there = (ctx.op("Cast", v, to=kind) for v in (condition, ctx.reference(condition)))
    chosen = ctx.op("Mul", ctx.op("Add", here, there), ctx.scalar(0.5, a))
    change_a, change_b = difference(ctx, a), difference(ctx, b)
    smooth = ctx.op("Add", ctx.op("Mul", chosen, change_a), ctx.op("Mul", ctx.op("Sub", one, chosen), change_b))
    jump = ctx.op("Sub", difference(ctx, node.outputs[0]), smooth)
    share = ratio(ctx, jump, ctx.op("Add", ctx.op("Abs", change_a), ctx.op("Abs", change_b)), ctx.scalar(0.0, a))
    found: list[ir.Value | None] = [None]
    for operand, weight, change in ((a, chosen, change_a), (b, ctx.op("Sub", one, chosen), change_b)):
        multiplier = ctx.op("Add", weight, ctx.op("Mul", share, ctx.op("Sign", change)))
        back = ctx.op("Mul", g, multiplier)
        found.append(ctx.unbroadcast(back, operand, node.outputs[0]) if ctx.need(operand) else None)
    return found
