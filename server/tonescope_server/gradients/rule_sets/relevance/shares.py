"""What relevance rules are made of: the stabilised denominator, passing on, and sharing in proportion."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.activation import is_mended
from tonescope_server.gradients.rules.elementwise import required


def passed_on(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
    """Pass relevance on unchanged: a function of one element has only one operand to give it to."""
    return [relevance[0]]


def passed_by_first(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
    """Pass relevance on unchanged to the first operand.

    Refused: a second operand that depends on the input.
    """
    if ctx.need(node.inputs[1]):
        raise ctx.unsupported(node, "its second operand depends on the input")
    x = required(node.inputs[0])
    return [ctx.unbroadcast(required(relevance[0]), x, node.outputs[0])]


def stabilised(ctx: Context, z: ir.Value, epsilon: float, like: ir.Value | None = None) -> ir.Value:
    """Return ``z + ε·sign z``, with sign(0) = +1; ``like`` has the element type where z has none yet."""
    like = z if like is None else like
    plus, minus = ctx.scalar(epsilon, like), ctx.scalar(-epsilon, like)
    return ctx.op("Add", z, ctx.op("Where", ctx.op("Less", z, ctx.scalar(0.0, like)), minus, plus))


def proportional(standard: Rule, epsilon: float) -> Rule:
    """Make the ε rule of an operator that is linear in its operands: ``x · Jᵀ(R / z)``."""

    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        """``x · Jᵀ(R / (z + ε·sign z))``."""
        z = node.outputs[0]
        share = ctx.typed(ctx.op("Div", relevance[0], stabilised(ctx, z, epsilon)), z)
        return [times(ctx, v, c) for v, c in zip(node.inputs, back(ctx, standard, node, share), strict=False)]

    return rule


def proportional_unmasked(standard: Rule, epsilon: float) -> Rule:
    """Make the ε rule of a softmax: what is masked, −∞ before it, gets nothing; not −∞ times zero."""

    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        """``x · Jᵀ(R / (y + ε·sign y))``, and nothing for what is masked."""
        x, y = required(node.inputs[0]), node.outputs[0]
        share = ctx.op("Div", relevance[0], stabilised(ctx, y, epsilon))
        if is_mended(y):
            share = ctx.op("Where", ctx.op("IsNaN", y), ctx.scalar(0.0, y), share)
        finite = ctx.op("Where", ctx.op("IsInf", x), ctx.scalar(0.0, x), x)
        return [ctx.op("Mul", finite, back(ctx, standard, node, ctx.typed(share, y))[0])]

    return rule


def absorb(
    ctx: Context, result: ir.Value, z: ir.Value, share: ir.Value, handed: Sequence[tuple[ir.Value, ir.Value]]
) -> None:
    """Note what biases keep of relevance: ``Σ share·z``, which is what was there to give, less what was handed on.

    Args:
        ctx: keeps the note.
        result: the model's own value that ``z`` is laid out like.
        z: what was shared, biases among it.
        share: relevance over stabilised z.
        handed: operands, and what each got.
    """
    # A mask of −∞ is shared as the constant that it is: what it masks has none to give, and not −∞ times zero.
    finite = ctx.op("Less", ctx.op("Abs", z), ctx.scalar(float("inf"), result))
    given = ctx.op("Where", finite, ctx.op("Mul", share, z), ctx.scalar(0.0, result))
    ctx.absorbed.append([(result, given), *((operand, ctx.op("Neg", part)) for operand, part in handed)])


def back(ctx: Context, standard: Rule, node: ir.Node, share: ir.Value) -> list[ir.Value | None]:
    """Apply a standard rule, and expand what it left merely broadcastable."""
    found = standard(ctx, node, [share, *[None] * (len(node.outputs) - 1)])
    return [None if c is None or v is None else ctx.expanded(c, v) for v, c in zip(node.inputs, found, strict=False)]


def times(ctx: Context, operand: ir.Value | None, share: ir.Value | None) -> ir.Value | None:
    """Return an operand times its share, where it is wanted."""
    if operand is None or share is None or not ctx.need(operand):
        return None
    return ctx.op("Mul", operand, share)
