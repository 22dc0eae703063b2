"""Multipliers of quotients, powers, remainders, choices, products of many operands and quantisation."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, operator_name
from tonescope_server.gradients.rule_sets.multipliers.differences import (
    average,
    averaged,
    bounded,
    difference,
    ends,
    is_still,
    mean_of,
    quotient,
    ratio,
    returned,
    slope,
    tamed,
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


def product(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``Δ(xy) = Δx·ȳ + Δy·x̄``; with a Reciprocal, as exporters write a root mean square, as the quotient that it is."""
    inverse = [i for i, v in enumerate(node.inputs) if _is_reciprocal(v)]
    if not inverse:
        return averaged(STANDARD.rules["Mul"])(ctx, node, cotangents)
    g, result = required(cotangents[0]), node.outputs[0]
    x, q = required(node.inputs[1 - inverse[0]]), required(node.inputs[inverse[0]])
    made = q.producer()
    assert made is not None  # the Reciprocal
    below = required(made.inputs[0])
    ends = below, ctx.reference(below)
    by_x, by_below = quotient(ctx, ends, (result, ctx.reference(result)))
    # The Reciprocal itself hands back −1/(y·y₀) of what it gets.
    by_q = ctx.op("Neg", ctx.op("Mul", ctx.op("Mul", g, by_below), ctx.op("Mul", *ends)))
    found = [
        ctx.unbroadcast(ctx.op("Mul", g, by_x), x, result) if ctx.need(x) else None,
        ctx.unbroadcast(by_q, q, result) if ctx.need(q) else None,
    ]
    return found if inverse[0] == 1 else found[::-1]


def _is_reciprocal(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    return node is not None and operator_name(node) == "Reciprocal"


def power(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The rescale rule by the base.

    Refused: an exponent that depends on the input.
    """
    if ctx.need(node.inputs[1]):
        raise ctx.unsupported(node, "its exponent depends on the input")
    return [_by_first(ctx, node, cotangents)]


def modulo(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The rescale rule by the dividend.

    Refused: a divisor that depends on the input.
    """
    if ctx.need(node.inputs[1]):
        raise ctx.unsupported(node, "its divisor depends on the input")
    return [_by_first(ctx, node, cotangents)]


def _by_first(ctx: Context, node: ir.Node, cotangents: Cotangents) -> ir.Value:
    g, x = required(cotangents[0]), ends(ctx, node.inputs[0])
    derivative = required(STANDARD.rules[node.op_type](ctx, node, cotangents)[0])
    still = is_still(ctx, x)
    quotient = ratio(ctx, difference(ctx, node.outputs[0]), ctx.op("Sub", *x), still)
    rescaled = ctx.unbroadcast(ctx.op("Mul", g, quotient), x[0], node.outputs[0])
    return ctx.op("Where", still, tamed(ctx, derivative, g, x), rescaled)


def quantize_linear(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The rescale rule: by how many levels the value differs between the ends, rounded and saturated as it is."""
    x, levels = ends(ctx, node.inputs[0]), node.outputs[0]
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale depends on the input")
    kind = int(ctx.dtype(x[0]))
    here, there = (ctx.op("Cast", v, to=kind) for v in (levels, ctx.reference(levels)))
    derivative = required(STANDARD.rules["QuantizeLinear"](ctx, node, cotangents)[0])
    still = is_still(ctx, x, (here, there))
    quotient = ratio(ctx, ctx.op("Sub", here, there), ctx.op("Sub", *x), still)
    return [ctx.op("Where", still, derivative, ctx.op("Mul", cotangents[0], quotient))]


def scatter(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The standard rule, where that is linear.

    Refused: reductions max, min and mul.
    """
    reduction = ctx.attribute(node, "reduction", "none")
    if reduction not in ("none", "add"):
        raise ctx.unsupported(node, f"reduction '{reduction}': expected none or add")
    return STANDARD.rules[node.op_type](ctx, node, cotangents)


def choice(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """To the operand that is chosen at both ends; where the ends choose differently, ``Δy`` to the condition.

    What is chosen at neither end may be anything, a mask's −∞ or what is not a number, and has no part in the change.
    """
    condition = required(node.inputs[0])
    there = ctx.reference(condition)
    if there is condition:
        return STANDARD.rules["Where"](ctx, node, cotangents)
    g, y = required(cotangents[0]), node.outputs[0]
    kind, zero = int(ctx.dtype(y)), ctx.scalar(0.0, y)
    rise = ctx.op("Sub", *(ctx.op("Cast", v, to=kind) for v in (condition, there)))
    found: list[ir.Value | None] = [None]
    if ctx.need(condition):
        jump = ctx.op("Sub", bounded(ctx, y), bounded(ctx, ctx.reference(y)))
        back = ctx.typed(ctx.op("Mul", g, ctx.op("Mul", jump, rise)), y)  # rise is 1, −1 or 0, and its own reciprocal
        found[0] = returned(ctx, back, condition, y)
    at_both = ctx.op("And", condition, there), ctx.op("Not", ctx.op("Or", condition, there))
    for operand, chosen in zip(node.inputs[1:], at_both, strict=True):
        back = ctx.typed(ctx.op("Where", chosen, g, zero), y)
        found.append(ctx.unbroadcast(back, required(operand), y) if ctx.need(operand) else None)
    return found


def prelu(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``relu x − slope·relu(−x)``: both rescaled, their product by averages."""
    g, y = required(cotangents[0]), node.outputs[0]
    x, leak = required(node.inputs[0]), required(node.inputs[1])
    below = [ctx.op("Relu", ctx.op("Neg", v)) for v in (x, ctx.reference(x))]
    by_leak = ctx.op("Neg", ctx.op("Mul", g, mean_of(ctx, *below)))
    is_below = ctx.op("Cast", ctx.op("Less", x, ctx.scalar(0.0, x)), to=int(ctx.dtype(x)))
    # Δrelu(−x)/Δx, with its sign turned; Δrelu(x)/Δx is 1 less that.
    fall = ctx.op("Neg", slope(ctx, below, ends(ctx, x), ctx.op("Neg", is_below)))
    rise = ctx.op("Sub", ctx.scalar(1.0, x), fall)
    by_x = ctx.op("Mul", g, ctx.op("Add", rise, ctx.op("Mul", fall, average(ctx, leak))))
    return [
        ctx.typed(by_x, x) if ctx.need(x) else None,
        ctx.unbroadcast(by_leak, leak, y) if ctx.need(leak) else None,
    ]


def contraction(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """A product of all operands, exchanged one by one, from the first to the last and the other way round, averaged."""
    operands = [required(v) for v in node.inputs]
    found: list[ir.Value | None] = []
    half = ctx.constant(0.5, "float32")
    for i, operand in enumerate(operands):
        if not ctx.need(operand):
            found.append(None)
            continue
        ctx.also_need(operand)
        parts = []
        for first, last in ((ctx.reference, _same), (_same, ctx.reference)):
            ends = [*(last(v) for v in operands[:i]), operand, *(first(v) for v in operands[i + 1 :])]
            stand_in = ir.Node(node.domain, node.op_type, ends, list(node.attributes.values()), name=node.name)
            ctx.typed(stand_in.outputs[0], node.outputs[0])
            parts.append(required(STANDARD.rules[node.op_type](ctx, stand_in, cotangents)[i]))
        found.append(ctx.op("Mul", ctx.op("Add", *parts), ctx.op("CastLike", half, operand)))
    return found


def _same(value: ir.Value) -> ir.Value:
    return value
