"""What multipliers are made of: differences, averages and quotients of both ends, and the two general rules."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.activity import is_float
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required

# Below this difference a multiplier is the derivative: the quotient would be noise over noise.
SMALLEST_DIFFERENCE = 1e-10
# Masks write −∞, or the most negative number there is, where nothing shall be attended to: no difference of such can be
# worked with. Beyond this, as far as softmax is concerned, all is the same.
LARGEST = 1e20
LARGEST_IN_HALF = 1e4


def rescale(standard: Rule) -> Rule:
    """Make the rescale rule of a function of one element: ``g·Δy/Δx``, its derivative where Δx vanishes."""

    def rule(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
        """``g·Δy/Δx``."""
        x, y = required(node.inputs[0]), node.outputs[0]
        derivative = required(standard(ctx, node, cotangents)[0])
        scaled = ctx.op("Mul", cotangents[0], ratio(ctx, difference(ctx, y), difference(ctx, x), None))
        return [unless_small(ctx, difference(ctx, x), derivative, scaled)]

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


def ratio(ctx: Context, above: ir.Value, below: ir.Value, otherwise: ir.Value | None) -> ir.Value:
    """Return ``above / below``; where the denominator vanishes ``otherwise``, or the numerator over one."""
    small = is_small(ctx, below)
    safe = ctx.op("Where", small, ctx.op("CastLike", ctx.constant(1.0, "float32"), below), below)
    found = ctx.op("Div", above, safe)
    return found if otherwise is None else ctx.op("Where", small, otherwise, found)


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
    return ratio(ctx, ctx.op("Sub", *y), ctx.op("Sub", *x), derivative)


def unless_small(ctx: Context, change: ir.Value, derivative: ir.Value, rescaled: ir.Value) -> ir.Value:
    """Return what is rescaled, and the derivative where the change vanishes."""
    return ctx.op("Where", is_small(ctx, change), derivative, rescaled)


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
