"""Multipliers of norms and products over axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents
from tonescope_server.gradients.rule_sets.multipliers.differences import ends, mean_of, ratio, slope
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.pooling import checked_windows, spread_over_windows
from tonescope_server.gradients.rules.reduction import kept, reduced_axes

MOST_FACTORS = 64  # of a product: two chains of so many nodes are emitted


def reduce_l1(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """A sum of absolute values, each rescaled: ``g·Δ|x|/Δx``."""
    x = required(node.inputs[0])
    return [ctx.op("Mul", kept(ctx, node, required(cotangents[0])), absolute_slope(ctx, x))]


def absolute_slope(ctx: Context, x: ir.Value) -> ir.Value:
    """Return ``Δ|x|/Δx``."""
    both = ends(ctx, x)
    return slope(ctx, [ctx.op("Abs", v) for v in both], both, ctx.op("Sign", x))


def reduce_l2(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The root of a sum of squares: ``Δ√s/Δs = 1/(y + y₀)`` and ``Δx² = (x + x₀)·Δx``."""
    x, y = required(node.inputs[0]), node.outputs[0]
    both = ctx.op("Add", kept(ctx, node, y), kept(ctx, node, ctx.reference(y)))
    zero = ctx.scalar(0.0, x)  # no sum of norms vanishes but that of zeros
    share = ratio(ctx, kept(ctx, node, required(cotangents[0])), both, ctx.op("Equal", both, zero), zero)
    return [ctx.op("Mul", share, ctx.op("Add", x, ctx.reference(x)))]


def lp_pool(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The root of a sum of powers, both rescaled; over windows, or over all positions."""
    x, y, p = required(node.inputs[0]), node.outputs[0], float(ctx.attribute(node, "p", 2))
    one, power = ctx.scalar(1.0, x), ctx.scalar(p, x)
    sums = [ctx.op("Pow", v, power) for v in (y, ctx.reference(y))]
    root = ctx.op("Div", y, ctx.op("Mul", power, ctx.op("Where", ctx.op("Equal", y, ctx.scalar(0.0, y)), one, sums[0])))
    share = ctx.op("Mul", cotangents[0], slope(ctx, [y, ctx.reference(y)], sums, root))
    powers = [ctx.op("Pow", ctx.op("Abs", v), power) for v in (x, ctx.reference(x))]
    below = ctx.op("Pow", ctx.op("Abs", x), ctx.scalar(p - 1, x))
    derivative = ctx.op("Mul", ctx.op("Mul", power, ctx.op("Sign", x)), below)
    if node.op_type == "LpPool":
        share = spread_over_windows(ctx, ctx.typed(share, y), x, checked_windows(ctx, node))
    return [ctx.op("Mul", share, slope(ctx, powers, [x, ctx.reference(x)], derivative))]


def reduce_product(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Factors exchanged one by one, from the first to the last and the other way round, averaged.

    ``Πx − Πx₀ = Σᵢ x₁…xᵢ₋₁·Δxᵢ·x₀ᵢ₊₁…x₀ₙ``; of two factors this is the average of both ends.

    Refused: several axes, more than 64 factors, a number of factors known only at run time.
    """
    x = required(node.inputs[0])
    rank = ctx.rank(x)
    axes = reduced_axes(ctx, node)
    axes = list(range(rank)) if axes is None else axes
    if not axes:
        return [cotangents[0]]
    if len(axes) > 1:
        raise ctx.unsupported(node, "a product over several axes: expected one")
    size = ctx.dims(x)[axes[0]]
    if not isinstance(size, int) or size > MOST_FACTORS:
        raise ctx.unsupported(node, f"a product of {size} factors: expected a static number up to {MOST_FACTORS}")
    here, there = (_factors(ctx, v, size, axes[0]) for v in (x, ctx.reference(x)))
    forwards, backwards = _exchanged(ctx, here, there), _exchanged(ctx, here[::-1], there[::-1])[::-1]
    each = [mean_of(ctx, a, b) for a, b in zip(forwards, backwards, strict=True)]
    return [ctx.op("Mul", kept(ctx, node, required(cotangents[0])), ctx.op("Concat", *each, axis=axes[0]))]


def _factors(ctx: Context, value: ir.Value, size: int, axis: int) -> list[ir.Value]:
    return list(ctx.ops("Split", value, ctx.ints([1] * size), outputs=size, axis=axis))


def _exchanged(ctx: Context, here: Sequence[ir.Value], there: Sequence[ir.Value]) -> list[ir.Value]:
    """Return, for each factor, the product of those before it here and those after it there."""
    one = ctx.op("CastLike", ctx.constant([1.0], "float32"), here[0])
    before, after = [one], [one]
    for value in here[:-1]:
        before.append(ctx.op("Mul", before[-1], value))
    for value in reversed(there[1:]):
        after.append(ctx.op("Mul", after[-1], value))
    return [
        ctx.op("Expand", ctx.op("Mul", a, b), ctx.op("Shape", here[0]))
        for a, b in zip(before, reversed(after), strict=True)
    ]
