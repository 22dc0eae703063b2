"""DeepLIFT's rescale rule, made exactly complete: multipliers between a window and a reference.

What flows back is the multiplier Δtarget/Δvalue. Linear operators pass it on as they pass a gradient; a function of one
element by Δy/Δx; a product by the averages of its operands at both ends; a maximum by the cross-maximum. Whatever is
neither is taken apart into those, so that Σ multiplier·Δinput is Δtarget to rounding, and nothing depends on the rest
of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule, RuleSet
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.gradients.rules import activation, pooling, unary
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.marker import hookimpl

# Below this difference a multiplier is the derivative: the quotient would be noise over noise.
SMALLEST_DIFFERENCE = 1e-10


def rescale(standard: Rule) -> Rule:
    """Make the rescale rule of a function of one element: ``g·Δy/Δx``, its derivative where Δx vanishes."""

    def rule(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
        """``g·Δy/Δx``."""
        x, y = required(node.inputs[0]), node.outputs[0]
        derivative = required(standard(ctx, node, cotangents)[0])
        ratio = _ratio(ctx, _difference(ctx, y), _difference(ctx, x), None)
        return [_unless_small(ctx, _difference(ctx, x), derivative, ctx.op("Mul", cotangents[0], ratio))]

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
    average = _average(ctx, value)
    if average is not value and ctx.need(value):
        ctx.also_need(average)
    return average


def division(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """A product with the reciprocal: ``Δ(x/y) = Δx·avg(1/y) + x̄·Δ(1/y)``, and ``Δ(1/y) = −Δy/(y·y₀)``."""
    g = required(cotangents[0])
    x, y = required(node.inputs[0]), required(node.inputs[1])
    result = node.outputs[0]
    inverse, inverse_at_reference = ctx.op("Reciprocal", y), ctx.op("Reciprocal", ctx.reference(y))
    mean = ctx.op("Mul", ctx.op("Add", inverse, inverse_at_reference), ctx.scalar(0.5, y))
    by_x = ctx.unbroadcast(ctx.op("Mul", g, mean), x, result) if ctx.need(x) else None
    if not ctx.need(y):
        return [by_x]
    slope = ctx.op("Mul", ctx.op("Mul", inverse, inverse_at_reference), _average(ctx, x))
    return [by_x, ctx.unbroadcast(ctx.op("Neg", ctx.op("Mul", g, slope)), y, result)]


def power(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The rescale rule by the base; an exponent that depends on the input is refused."""
    if ctx.need(node.inputs[1]):
        raise ctx.unsupported(node, "its exponent depends on the input")
    g = required(cotangents[0])
    derivative = required(STANDARD.rules["Pow"](ctx, node, cotangents)[0])
    return [_rescaled(ctx, node, g, derivative)]


def _rescaled(ctx: Context, node: ir.Node, g: ir.Value, derivative: ir.Value) -> ir.Value:
    x = required(node.inputs[0])
    change = _difference(ctx, x)
    ratio = _ratio(ctx, _difference(ctx, node.outputs[0]), change, None)
    return _unless_small(ctx, change, derivative, ctx.unbroadcast(ctx.op("Mul", g, ratio), x, node.outputs[0]))


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
    e, e0, slope = _exponentials(ctx, node, axis)
    s, s0 = ctx.op("ReduceSum", e, axis, keepdims=1), ctx.op("ReduceSum", e0, axis, keepdims=1)
    logs = _ratio(
        ctx, ctx.op("Sub", ctx.op("Log", s), ctx.op("Log", s0)), ctx.op("Sub", s, s0), ctx.op("Reciprocal", s)
    )
    total = ctx.op("ReduceSum", g, axis, keepdims=1)
    return [ctx.op("Sub", g, ctx.op("Mul", ctx.op("Mul", total, logs), slope))]


def _exponentials(ctx: Context, node: ir.Node, axis: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return ``exp(x − c)`` at both ends, and Δ of it over Δx."""
    x = required(node.inputs[0])
    x0 = ctx.reference(x)
    most = ctx.op("ReduceMax", ctx.op("Max", x, x0), axis, keepdims=1)
    e, e0 = ctx.op("Exp", ctx.op("Sub", x, most)), ctx.op("Exp", ctx.op("Sub", x0, most))
    return e, e0, _ratio(ctx, ctx.op("Sub", e, e0), ctx.op("Sub", x, x0), e)


def extreme(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``max(a, b) = a + relu(b − a)``, and for min with the signs turned: a linear operator and a rescaled ReLU."""
    if len(node.inputs) != 2:
        raise ctx.unsupported(node, f"{len(node.inputs)} operands: expected two")
    g = required(cotangents[0])
    a, b = required(node.inputs[0]), required(node.inputs[1])
    gap = ctx.op("Sub", b, a)
    gap0 = ctx.op("Sub", ctx.reference(b), ctx.reference(a))
    if node.op_type == "Min":
        gap, gap0 = ctx.op("Neg", gap), ctx.op("Neg", gap0)
    change = ctx.op("Sub", gap, gap0)
    kink = ctx.op("Sub", ctx.op("Relu", gap), ctx.op("Relu", gap0))
    step = ctx.op("Cast", ctx.op("Greater", gap, ctx.scalar(0.0, a)), to=int(ctx.dtype(a)))
    to_b = ctx.op("Mul", g, _ratio(ctx, kink, change, step))
    result = node.outputs[0]
    return [
        ctx.unbroadcast(ctx.op("Sub", g, to_b), a, result) if ctx.need(a) else None,
        ctx.unbroadcast(to_b, b, result) if ctx.need(b) else None,
    ]


def max_pool(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """The cross-maximum: each end's maximum gets the change beyond the other's; overlapping windows add up."""
    x, g, y = required(node.inputs[0]), required(cotangents[0]), node.outputs[0]
    x0, y0 = ctx.reference(x), ctx.reference(y)
    cross = ctx.op("Max", y, y0)
    up = ctx.op("Mul", g, ctx.op("Sub", cross, y0))
    down = ctx.op("Mul", g, ctx.op("Sub", y, cross))
    there = y0.producer()
    if there is None or there is node:
        raise ctx.unsupported(node, "its operand does not depend on the input")
    summed = ctx.op(
        "Add",
        required(pooling.max_pool(ctx, node, [up])[0]),
        required(pooling.max_pool(ctx, there, [down])[0]),
    )
    gradient = required(pooling.max_pool(ctx, node, [g])[0])
    return [_ratio(ctx, summed, ctx.op("Sub", x, x0), gradient)]


def layer_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Taken apart: ``c = x − mean``, ``v = mean c²``, ``y = c·(v + ε)^−½``."""
    x, scale = required(node.inputs[0]), required(node.inputs[1])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale or bias depends on the input")
    rank = ctx.rank(x)
    axes = ctx.ints(range(ctx.attribute(node, "axis", -1) % rank, rank))
    g = ctx.op("Mul", cotangents[0], scale)
    return [_standardisation(ctx, g, x, axes, ctx.attribute(node, "epsilon", 1e-5))]


def instance_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As for layer normalisation, over the positions of each channel."""
    x, scale = required(node.inputs[0]), required(node.inputs[1])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale or bias depends on the input")
    rank = ctx.rank(x)
    per_channel = ctx.op("Reshape", scale, ctx.ints([-1, *[1] * (rank - 2)]))
    g = ctx.op("Mul", cotangents[0], per_channel)
    return [_standardisation(ctx, g, x, ctx.ints(range(2, rank)), ctx.attribute(node, "epsilon", 1e-5))]


def _standardisation(ctx: Context, g: ir.Value, x: ir.Value, axes: ir.Value, epsilon: float) -> ir.Value:
    def parts(value: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        centred = ctx.op("Sub", value, ctx.op("ReduceMean", value, axes, keepdims=1))
        variance = ctx.op("ReduceMean", ctx.op("Mul", centred, centred), axes, keepdims=1)
        shifted = ctx.op("Add", variance, ctx.scalar(epsilon, x))
        return centred, variance, ctx.op("Reciprocal", ctx.op("Sqrt", shifted))

    (c, v, inverse), (c0, v0, inverse0) = parts(x), parts(ctx.reference(x))
    half = ctx.scalar(0.5, x)
    mean_c, mean_inverse = (ctx.op("Mul", ctx.op("Add", a, b), half) for a, b in ((c, c0), (inverse, inverse0)))
    cube = ctx.op("Mul", ctx.op("Mul", inverse, inverse), inverse)
    bend = _ratio(ctx, ctx.op("Sub", inverse, inverse0), ctx.op("Sub", v, v0), ctx.op("Mul", cube, ctx.scalar(-0.5, x)))
    along = ctx.op("ReduceMean", ctx.op("Mul", g, mean_c), axes, keepdims=1)
    by_variance = ctx.op("Mul", ctx.op("Mul", along, bend), ctx.op("Mul", mean_c, ctx.scalar(2.0, x)))
    by_centred = ctx.op("Add", ctx.op("Mul", g, mean_inverse), by_variance)
    return ctx.op("Sub", by_centred, ctx.op("ReduceMean", by_centred, axes, keepdims=1))


def _difference(ctx: Context, value: ir.Value) -> ir.Value:
    return ctx.op("Sub", value, ctx.reference(value))


def _average(ctx: Context, value: ir.Value) -> ir.Value:
    other = ctx.reference(value)
    if other is value:
        return value
    return ctx.typed(ctx.op("Mul", ctx.op("Add", value, other), ctx.scalar(0.5, value)), value)


def _ratio(ctx: Context, above: ir.Value, below: ir.Value, otherwise: ir.Value | None) -> ir.Value:
    """Return ``above / below``; where the denominator vanishes ``otherwise``, or the numerator over one."""
    small = _is_small(ctx, below)
    safe = ctx.op("Where", small, ctx.op("CastLike", ctx.constant(1.0, "float32"), below), below)
    ratio = ctx.op("Div", above, safe)
    return ratio if otherwise is None else ctx.op("Where", small, otherwise, ratio)


def _unless_small(ctx: Context, change: ir.Value, derivative: ir.Value, rescaled: ir.Value) -> ir.Value:
    return ctx.op("Where", _is_small(ctx, change), derivative, rescaled)


def _is_small(ctx: Context, change: ir.Value) -> ir.Value:
    limit = ctx.op("CastLike", ctx.constant(SMALLEST_DIFFERENCE, "float32"), change)
    return ctx.op("Less", ctx.op("Abs", change), limit)


_NOT_OF_ONE_ELEMENT = {"Neg", "PRelu"}
_RESCALED = {**unary.RULES, **{k: v for k, v in activation.RULES.items() if not k.endswith("oftmax")}}
_BILINEAR = ("Mul", "MatMul", "Gemm", "Einsum")
# Operators whose change no rule here splits exactly: refused rather than done wrongly.
_REFUSED = (
    "LSTM", "GRU", "RNN", "TopK", "Mod", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSumExp", "GlobalMaxPool", "RMSNormalization", "GroupNormalization", "LpNormalization",
    "MeanVarianceNormalization", "LRN", "If", "Scan",
)  # fmt: skip

DEEP_LIFT = STANDARD.without(*_REFUSED).override(
    "deep_lift",
    {
        **{name: rescale(rule) for name, rule in _RESCALED.items() if name not in _NOT_OF_ONE_ELEMENT},
        **{name: averaged(STANDARD.rules[name]) for name in _BILINEAR},
        "PRelu": rescale(STANDARD.rules["PRelu"]),
        "Div": division,
        "Pow": power,
        "Softmax": softmax,
        "LogSoftmax": log_softmax,
        "Max": extreme,
        "Min": extreme,
        "MaxPool": max_pool,
        "LayerNormalization": layer_normalization,
        "InstanceNormalization": instance_normalization,
    },
    summary="DeepLIFT's rescale rule: multipliers between the window and a reference; exactly complete.",
    source="Shrikumar et al. 2017, arXiv:1704.02685",
    reference=True,
)


@hookimpl
def tonescope_rule_sets() -> list[RuleSet]:
    """Offer DeepLIFT."""
    return [DEEP_LIFT]
