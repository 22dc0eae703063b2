"""Multipliers of normalisations, taken apart: what is centred, over the root of its mean square."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents
from tonescope_server.gradients.rule_sets.multipliers.differences import mean_of, quotient, slope
from tonescope_server.gradients.rule_sets.multipliers.reduction import absolute_slope
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.normalization import mean_variance_axes, neighbour_sums

MVN_EPSILON = 1e-9


def layer_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Taken apart: ``c = x − mean``, ``v = mean c²``, ``y = c/(v + ε)^½``, split as a quotient is."""
    x, scale = _plain(ctx, node)
    if any(c is not None for c in cotangents[1:]):
        raise ctx.unsupported(node, "its results Mean or InvStdDev lead to the output")
    g = ctx.op("Mul", cotangents[0], scale)
    return [_standardisation(ctx, g, x, ctx.reference(x), _last_axes(ctx, node, x), _epsilon(ctx, node))]


def instance_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As for layer normalisation, over the positions of each channel."""
    x, scale = _plain(ctx, node)
    rank = ctx.rank(x)
    g = ctx.op("Mul", cotangents[0], ctx.op("Reshape", scale, ctx.ints([-1, *[1] * (rank - 2)])))
    return [_standardisation(ctx, g, x, ctx.reference(x), ctx.ints(range(2, rank)), _epsilon(ctx, node))]


def group_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As for layer normalisation, over the channels and positions of each group."""
    x, scale = _plain(ctx, node)
    apart = ctx.ints([0, ctx.attribute(node, "num_groups"), -1])
    g = ctx.op("Mul", cotangents[0], ctx.op("Reshape", scale, ctx.ints([-1, *[1] * (ctx.rank(x) - 2)])))
    grouped, *ends = (ctx.op("Reshape", v, apart) for v in (g, x, ctx.reference(x)))
    back = _standardisation(ctx, grouped, ends[0], ends[1], ctx.ints([2]), _epsilon(ctx, node))
    return [ctx.reshape_like(back, x)]


def mean_variance_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As for layer normalisation, over the given axes."""
    x, axes = required(node.inputs[0]), ctx.ints(mean_variance_axes(ctx, node))
    return [_standardisation(ctx, required(cotangents[0]), x, ctx.reference(x), axes, MVN_EPSILON)]


def rms_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As for layer normalisation, without taking the mean away.

    Refused: a scale that depends on the input.
    """
    x, scale = _plain(ctx, node)
    g = ctx.op("Mul", cotangents[0], scale)
    return [_scaled(ctx, g, x, ctx.reference(x), _last_axes(ctx, node, x), _epsilon(ctx, node))]


def lp_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``x/n``: n the root of a sum of squares, or a sum of absolute values; split as a quotient is."""
    g, x, y = required(cotangents[0]), required(node.inputs[0]), node.outputs[0]
    x0, axes = ctx.reference(x), ctx.ints([ctx.attribute(node, "axis", -1)])
    euclidean = ctx.attribute(node, "p", 2) == 2
    n, n0 = (ctx.op("ReduceL2" if euclidean else "ReduceL1", v, axes, keepdims=1) for v in (x, x0))
    by_x, by_norm = quotient(ctx, (n, n0), (y, ctx.reference(y)))
    along = ctx.op("ReduceSum", ctx.op("Mul", g, by_norm), axes, keepdims=1)
    # Δn = Σ(x + x₀)Δx/(n + n₀), or Σ Δ|x|.
    if euclidean:
        through = ctx.op("Mul", ctx.op("Div", along, ctx.op("Add", n, n0)), ctx.op("Add", x, x0))
    else:
        through = ctx.op("Mul", along, absolute_slope(ctx, x))
    return [ctx.op("Add", ctx.op("Mul", g, by_x), through)]


def local_response_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``x·u^−β`` with ``u = k + α/n·Σ x²`` over neighbouring channels, the power of u rescaled."""
    g, x = required(cotangents[0]), required(node.inputs[0])
    x0, size = ctx.reference(x), ctx.attribute(node, "size")
    alpha, beta = ctx.attribute(node, "alpha", 1e-4), ctx.attribute(node, "beta", 0.75)
    before, bias = (size - 1) // 2, ctx.scalar(ctx.attribute(node, "bias", 1.0), x)

    def base(value: ir.Value) -> ir.Value:
        summed = neighbour_sums(ctx, ctx.op("Mul", value, value), size, before)
        return ctx.op("Add", ctx.op("Mul", summed, ctx.scalar(alpha / size, x)), bias)

    def power(value: ir.Value) -> ir.Value:
        return ctx.op("Pow", value, ctx.scalar(-beta, x))

    u, u0 = base(x), base(x0)
    p, p0 = power(u), power(u0)
    derivative = ctx.op("Mul", ctx.op("Div", p, u), ctx.scalar(-beta, x))
    bend = slope(ctx, (p, p0), (u, u0), derivative)
    by_base = ctx.op("Mul", ctx.op("Mul", g, mean_of(ctx, x, x0)), bend)
    shared = neighbour_sums(ctx, by_base, size, size - 1 - before)
    through = ctx.op("Mul", ctx.op("Mul", shared, ctx.op("Add", x, x0)), ctx.scalar(alpha / size, x))
    return [ctx.op("Add", ctx.op("Mul", g, mean_of(ctx, p, p0)), through)]


def _plain(ctx: Context, node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """Return operand and scale; refuses a scale or bias that depends on the input."""
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale or bias depends on the input")
    return required(node.inputs[0]), required(node.inputs[1])


def _last_axes(ctx: Context, node: ir.Node, x: ir.Value) -> ir.Value:
    rank = ctx.rank(x)
    return ctx.ints(range(ctx.attribute(node, "axis", -1) % rank, rank))


def _epsilon(ctx: Context, node: ir.Node) -> float:
    return float(ctx.attribute(node, "epsilon", 1e-5))


def _standardisation(ctx: Context, g: ir.Value, x: ir.Value, x0: ir.Value, axes: ir.Value, epsilon: float) -> ir.Value:
    def centred(value: ir.Value) -> ir.Value:
        return ctx.op("Sub", value, ctx.op("ReduceMean", value, axes, keepdims=1))

    by_centred = _scaled(ctx, g, centred(x), centred(x0), axes, epsilon)
    return centred(by_centred)  # taking a mean away is its own transpose


def _scaled(ctx: Context, g: ir.Value, c: ir.Value, c0: ir.Value, axes: ir.Value, epsilon: float) -> ir.Value:
    """Return the multiplier of ``c/(mean c² + ε)^½`` by c."""

    def root(value: ir.Value) -> ir.Value:
        square = ctx.op("ReduceMean", ctx.op("Mul", value, value), axes, keepdims=1)
        shifted = ctx.op("Add", square, ctx.op("CastLike", ctx.constant(epsilon, "float32"), value))
        return ctx.op("Sqrt", shifted)

    q, q0 = root(c), root(c0)
    by_c, by_q = quotient(ctx, (q, q0), (ctx.op("Div", c, q), ctx.op("Div", c0, q0)))
    # Δq = mean (c + c₀)·Δc / (q + q₀): written so, no difference of near numbers is divided by another.
    along = ctx.op("ReduceMean", ctx.op("Mul", g, by_q), axes, keepdims=1)
    by_square = ctx.op("Mul", ctx.op("Div", along, ctx.op("Add", q, q0)), ctx.op("Add", c, c0))
    return ctx.op("Add", ctx.op("Mul", g, by_c), by_square)
