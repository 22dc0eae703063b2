"""What multipliers are made of: differences, averages and quotients of both ends, and the two general rules."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.activity import is_float
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required

# Below this difference a multiplier is the derivative: the quotient would be noise over noise. Not so where operand and
# result are as small themselves, as a power of 1e-12 is, and both differ by more than this part of what they are: there
# the quotient has 11 bits or more, while the derivative would lose the change. What the derivative leaves out elsewhere
# is of second order, half the square of this part: no more than the result's own rounding.
SMALLEST_DIFFERENCE = 1e-10
SMALLEST_PART = 2.0**-12
# Masks write −∞, or the most negative number there is, where nothing shall be attended to: no difference of such can be
# worked with. Beyond this, as far as softmax is concerned, all is the same.
LARGEST = 1e20
LARGEST_IN_HALF = 1e4


def rescale(standard: Rule) -> Rule:
    """Make the rescale rule of a function of one element: ``g·Δy/Δx``, its derivative where Δx vanishes."""

    def rule(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
        """``g·Δy/Δx``."""
        g, x, y = required(cotangents[0]), ends(ctx, node.inputs[0]), ends(ctx, node.outputs[0])
        derivative = required(standard(ctx, node, cotangents)[0])
        still = is_still(ctx, x, y)
        scaled = ctx.op("Mul", g, ratio(ctx, ctx.op("Sub", *y), ctx.op("Sub", *x), still))
        return [ctx.op("Where", still, tamed(ctx, derivative, g, x), scaled)]

    return rule


def rescale_exact(standard: Rule) -> Rule:
    """Make the rescale rule of a function that rounds nothing and bends at zero only: no quotient of it is noise."""

    def rule(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
        """``g·Δy/Δx``, whatever Δx is."""
        x, y = ends(ctx, node.inputs[0]), ends(ctx, node.outputs[0])
        still = ctx.op("Equal", *x)
        derivative = required(standard(ctx, node, cotangents)[0])
        scaled = ctx.op("Mul", cotangents[0], ratio(ctx, ctx.op("Sub", *y), ctx.op("Sub", *x), still))
        return [ctx.op("Where", still, derivative, scaled)]

    return rule


def averaged(standard: Rule) -> Rule:
    """Make the rule of a product: the standard one, with each operand averaged over both ends."""

    def rule(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
        """``Δ(xy) = Δx·ȳ + Δy·x̄``."""
        operands = [None if v is None else _stand_in(ctx, v) for v in node.inputs]
        stand_in = ir.Node(
            node.domain, node.op_type, operands, list(node.attributes.values()), num_outputs=len(node.outputs),
            name=node.name,
        )  # fmt: skip
        for mine, theirs in zip(stand_in.outputs, node.outputs, strict=True):
            ctx.typed(mine, theirs)
        return standard(ctx, stand_in, cotangents)

    return rule


def _stand_in(ctx: Context, value: ir.Value) -> ir.Value:
    """Return a value averaged over both ends, known to be wanted wherever the value itself is."""
    mean = average(ctx, value)
    if mean is not value and ctx.need(value):
        ctx.also_need(mean)
    return mean


def ends(ctx: Context, value: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """Return a value at the window and at the reference."""
    here = required(value)
    return here, ctx.reference(here)


def difference(ctx: Context, value: ir.Value) -> ir.Value:
    """Return how much more a value is at the window than at the reference."""
    return ctx.op("Sub", value, ctx.reference(value))


def bounded(ctx: Context, value: ir.Value) -> ir.Value:
    """Return a value with what a mask makes of it, −∞ or the least number, as a finite one that can be subtracted."""
    most = LARGEST_IN_HALF if ctx.dtype(value) == ir.DataType.FLOAT16 else LARGEST
    return ctx.typed(ctx.op("Clip", value, ctx.scalar(-most, value), ctx.scalar(most, value)), value)


def average(ctx: Context, value: ir.Value) -> ir.Value:
    """Return the mean of a value over both ends: the value itself where it does not depend on the input."""
    other = ctx.reference(value)
    return value if other is value else ctx.typed(mean_of(ctx, value, other), value)


def mean_of(ctx: Context, here: ir.Value, there: ir.Value) -> ir.Value:
    """Return the mean of what something is at the window and at the reference."""
    return ctx.op("Mul", ctx.op("Add", here, there), ctx.op("CastLike", ctx.constant(0.5, "float32"), here))


def ratio(
    ctx: Context, above: ir.Value, below: ir.Value, vanishes: ir.Value, otherwise: ir.Value | None = None
) -> ir.Value:
    """Return ``above / below``; where the denominator vanishes ``otherwise``, or the numerator over one."""
    safe = ctx.op("Where", vanishes, ctx.op("CastLike", ctx.constant(1.0, "float32"), below), below)
    found = ctx.op("Div", above, safe)
    return found if otherwise is None else ctx.op("Where", vanishes, otherwise, found)


def quotient(ctx: Context, y: Sequence[ir.Value], r: Sequence[ir.Value]) -> tuple[ir.Value, ir.Value]:
    """Return the multipliers of ``r = x/y`` by x and by y, from y and r at the window and at the reference.

    ``Δr = Δx/y − r₀·Δy/y = Δx/y₀ − r·Δy/y₀``: either is exact, and each divides by one end. Weighted by y² and y₀², the
    end near zero does not count: that of ``x/max(‖x‖, 1e-12)`` at a reference of zeros would make 1e12 times as much of
    whatever is rounded. Where the ends are near each other both weights are one half.
    """
    size = ctx.op("Max", *(ctx.op("Abs", v) for v in y))
    here, there = (ctx.op("Div", v, size) for v in y)
    squares = ctx.op("Add", ctx.op("Mul", here, here), ctx.op("Mul", there, there))
    below = ctx.op("Mul", squares, size)
    crossed = ctx.op("Add", ctx.op("Mul", r[1], here), ctx.op("Mul", r[0], there))
    return ctx.op("Div", ctx.op("Add", here, there), below), ctx.op("Neg", ctx.op("Div", crossed, below))


def slope(ctx: Context, y: Sequence[ir.Value], x: Sequence[ir.Value], derivative: ir.Value) -> ir.Value:
    """Return ``Δy/Δx`` of a function of one element, both at window and reference; its derivative where Δx vanishes."""
    return ratio(ctx, ctx.op("Sub", *y), ctx.op("Sub", *x), is_still(ctx, x, y), derivative)


def tamed(ctx: Context, derivative: ir.Value, g: ir.Value, x: Sequence[ir.Value]) -> ir.Value:
    """Return ``g`` times a derivative, and zero where that is infinite though nothing moved: √ and log of a null tone.

    What does not move has no part in the change, whatever its multiplier; but ∞·0 would be not a number, for all cells.
    """
    infinity = ctx.scalar(float("inf"), x[0])
    is_finite, is_given = (ctx.op("Less", ctx.op("Abs", v), infinity) for v in (derivative, g))
    wild = ctx.op("And", ctx.op("And", ctx.op("Equal", *x), is_given), ctx.op("Not", is_finite))
    return ctx.op("Where", wild, ctx.scalar(0.0, x[0]), derivative)


def returned(ctx: Context, back: ir.Value, operand: ir.Value, result: ir.Value) -> ir.Value | None:
    """Return an operand's multiplier, of one of the result's shape; float32 if the operand is no float."""
    if not ctx.need(operand):
        return None
    emitted = back.type
    found = ctx.unbroadcast(back, operand, result)
    found.type = emitted  # not that of the operand, which may be of truths
    kind = ctx.dtype(operand) if is_float(operand) else ir.DataType.FLOAT
    cast = ctx.op("Cast", found, to=int(kind))
    cast.shape, cast.type = operand.shape, ir.TensorType(kind)
    return cast


def is_small(ctx: Context, change: ir.Value) -> ir.Value:
    """Tell where a difference is none."""
    limit = ctx.op("CastLike", ctx.constant(SMALLEST_DIFFERENCE, "float32"), change)
    return ctx.op("Less", ctx.op("Abs", change), limit)


def is_still(ctx: Context, x: Sequence[ir.Value], y: Sequence[ir.Value] | None = None) -> ir.Value:
    """Tell where an operand moved by too little for a quotient, and where it is infinite at both ends.

    Args:
        ctx: emits.
        x: the operand at the window and at the reference.
        y: the function's result at both, where that is rounded by itself.
    """
    change = ctx.op("Sub", *x)
    lost = _is_rounding(ctx, change, x[0])
    if y is not None:
        lost = ctx.op("Or", lost, _is_rounding(ctx, ctx.op("Sub", *y), y[0]))
    return ctx.op("Or", ctx.op("Equal", *x), ctx.op("And", is_small(ctx, change), lost))


def _is_rounding(ctx: Context, change: ir.Value, value: ir.Value) -> ir.Value:
    part = ctx.op("CastLike", ctx.constant(SMALLEST_PART, "float32"), change)
    return ctx.op("LessOrEqual", ctx.op("Abs", change), ctx.op("Mul", ctx.op("Abs", value), part))
