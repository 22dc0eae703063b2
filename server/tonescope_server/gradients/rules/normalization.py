"""Normalisation layers at inference time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule, accepts_unexpanded
from tonescope_server.gradients.rules.elementwise import required


def batch_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g · scale/√(var + ε)`` per channel: at inference the statistics are constants.

    A convolution before it takes the factor into its weights.

    Refused: training_mode, parameters that depend on the input.
    """
    if ctx.attribute(node, "training_mode", 0):
        raise ctx.unsupported(node, "training_mode is 1: its result depends on the rest of the batch")
    x, scale, variance = required(node.inputs[0]), required(node.inputs[1]), required(node.inputs[4])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale, bias or statistics depend on the input")
    epsilon = ctx.scalar(ctx.attribute(node, "epsilon", 1e-5), variance)
    factor = ctx.op("Div", scale, ctx.op("Sqrt", ctx.op("Add", variance, epsilon)))
    per_channel = ctx.op("Reshape", factor, ctx.ints([-1, *[1] * (ctx.rank(x) - 2)]))
    g = required(cotangents[0])
    return [ctx.mark_scaled(ctx.op("Mul", g, per_channel), g, factor)]


@accepts_unexpanded
def layer_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Normalisation over the last axes, with scale and bias of their shape.

    A mean over an axis of size one is the mean over the axis that it stands for, so ``g`` may be left unexpanded.

    Refused: a scale or bias that depends on the input, results Mean or InvStdDev that lead to the output.
    """
    if any(c is not None for c in cotangents[1:]):
        raise ctx.unsupported(node, "its results Mean or InvStdDev lead to the output")
    x, scale, g = required(node.inputs[0]), required(node.inputs[1]), required(cotangents[0])
    axis, epsilon = ctx.attribute(node, "axis", -1) % ctx.rank(x), ctx.attribute(node, "epsilon", 1e-5)
    sizes, axes = ctx.dims(x)[axis:], range(axis, ctx.rank(x))
    if not ctx.portable and x.dtype == ir.DataType.FLOAT and all(isinstance(n, int) for n in sizes):
        # One node in place of eight. With a scale of ones the kernel returns what the forward node keeps to itself;
        # asking that node for its Mean and InvStdDev would leave two more to emit.
        ones = ctx.constant(np.ones([n for n in sizes if isinstance(n, int)]), np.float32)
        unit, _, inverse = ctx.ops("LayerNormalization", x, ones, outputs=3, axis=axis, epsilon=epsilon)
    else:
        unit, inverse = _standardised(ctx, x, axes, epsilon)
    found = [_through(ctx, ctx.op("Mul", g, scale), unit, inverse, axes) if ctx.need(x) else None]
    return [*found, *_affine(ctx, node, g, unit)]


def rms_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As layer normalisation, without taking the mean away."""
    x, scale, g = required(node.inputs[0]), required(node.inputs[1]), required(cotangents[0])
    rank = ctx.rank(x)
    axes = ctx.ints(range(ctx.attribute(node, "axis", -1) % rank, rank))
    inverse = _inverse_root(ctx, x, axes, ctx.attribute(node, "epsilon", 1e-5))
    scaled, unit = ctx.op("Mul", g, scale), ctx.op("Mul", x, inverse)
    along = ctx.op("ReduceMean", ctx.op("Mul", scaled, unit), axes, keepdims=1)
    by_x = ctx.op("Mul", inverse, ctx.op("Sub", scaled, ctx.op("Mul", unit, along)))
    return [by_x, *_affine(ctx, node, g, unit)[:1]]


def instance_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Normalisation over the positions of each channel of each sample.

    Refused: a scale or bias that depends on the input.
    """
    x, scale, g = required(node.inputs[0]), required(node.inputs[1]), required(cotangents[0])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale or bias depends on the input")
    axes = list(range(2, ctx.rank(x)))
    unit, inverse = _standardised(ctx, x, axes, ctx.attribute(node, "epsilon", 1e-5))
    per_channel = ctx.op("Reshape", scale, ctx.ints([-1, *[1] * len(axes)]))
    return [_through(ctx, ctx.op("Mul", g, per_channel), unit, inverse, axes)]


def group_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Normalisation over the channels and positions of each group; scale and bias per channel.

    Refused: a scale or bias that depends on the input.
    """
    x, scale, g = required(node.inputs[0]), required(node.inputs[1]), required(cotangents[0])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale or bias depends on the input")
    groups = ctx.attribute(node, "num_groups")
    weight = ctx.op("Reshape", scale, ctx.ints([-1, *[1] * (ctx.rank(x) - 2)]))
    apart = ctx.ints([0, groups, -1])
    grouped = ctx.op("Reshape", x, apart)
    unit, inverse = _standardised(ctx, grouped, [2], ctx.attribute(node, "epsilon", 1e-5), like=x)
    back = _through(ctx, ctx.op("Reshape", ctx.op("Mul", g, weight), apart), unit, inverse, [2])
    return [ctx.reshape_like(back, x)]


def lp_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``y = x/‖x‖``: ``(g − y·Σ g·s)/‖x‖`` with s = y for the Euclidean norm and sign x for the other."""
    x, g, y = required(node.inputs[0]), required(cotangents[0]), node.outputs[0]
    axes = ctx.ints([ctx.attribute(node, "axis", -1)])
    euclidean = ctx.attribute(node, "p", 2) == 2
    norm = ctx.op("ReduceL2" if euclidean else "ReduceL1", x, axes, keepdims=1)
    along = ctx.op("ReduceSum", ctx.op("Mul", g, y), axes, keepdims=1)
    toward = ctx.op("Mul", y if euclidean else ctx.op("Sign", x), along)
    return [ctx.op("Div", ctx.op("Sub", g, toward), norm)]


def mean_variance_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Normalisation over the given axes, with no scale.

    Refused: the batch axis among them.
    """
    axes = mean_variance_axes(ctx, node)
    unit, inverse = _standardised(ctx, required(node.inputs[0]), axes, 1e-9)
    return [_through(ctx, required(cotangents[0]), unit, inverse, axes)]


def mean_variance_axes(ctx: Context, node: ir.Node) -> list[int]:
    """Return the axes of a MeanVarianceNormalization; refuses the batch axis among them."""
    axes = [a % ctx.rank(required(node.inputs[0])) for a in ctx.attribute(node, "axes", [0, 2, 3])]
    if 0 in axes:
        raise ctx.unsupported(node, "it normalises over the batch: a window's answer would depend on its batch mates")
    return axes


def local_response_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``y = x·u^−β`` with ``u = k + α/n·Σ x²`` over n neighbouring channels."""
    x, g = required(node.inputs[0]), required(cotangents[0])
    size = ctx.attribute(node, "size")
    alpha, beta = ctx.attribute(node, "alpha", 1e-4), ctx.attribute(node, "beta", 0.75)
    before = (size - 1) // 2
    squares = ctx.op("Mul", neighbour_sums(ctx, ctx.op("Mul", x, x), size, before), ctx.scalar(alpha / size, x))
    u = ctx.op("Add", squares, ctx.scalar(ctx.attribute(node, "bias", 1.0), x))
    direct = ctx.op("Mul", g, ctx.op("Pow", u, ctx.scalar(-beta, x)))
    over = ctx.op("Div", ctx.op("Mul", g, node.outputs[0]), u)
    share = neighbour_sums(ctx, over, size, size - 1 - before)
    through = ctx.op("Mul", ctx.op("Mul", x, share), ctx.scalar(2 * alpha * beta / size, x))
    return [ctx.op("Sub", direct, through)]


def neighbour_sums(ctx: Context, value: ir.Value, size: int, before: int) -> ir.Value:
    """Sum over ``size`` neighbouring channels, ``before`` of them lower: an average pool of a tall, narrow picture."""
    tall = ctx.op("Concat", ctx.op("Shape", value, start=0, end=2), ctx.ints([-1]), axis=0)
    picture = ctx.op("Unsqueeze", ctx.op("Reshape", value, tall), ctx.ints([1]))
    pads = [before, 0, size - 1 - before, 0]
    pooled = ctx.op("AveragePool", picture, kernel_shape=[size, 1], count_include_pad=1, pads=pads)
    factor = ctx.op("CastLike", ctx.constant(float(size), "float32"), value)
    summed = ctx.op("Mul", ctx.op("Squeeze", pooled, ctx.ints([1])), factor)
    return ctx.op("Reshape", summed, ctx.op("Shape", value))


def _standardised(
    ctx: Context, x: ir.Value, axes: Sequence[int], epsilon: float, *, like: ir.Value | None = None
) -> tuple[ir.Value, ir.Value]:
    """Return ``(x − mean)/√(var + ε)`` and ``1/√(var + ε)`` over the axes, computed again in ``x``'s own type."""
    where = ctx.ints(axes)
    centred = ctx.op("Sub", x, ctx.op("ReduceMean", x, where, keepdims=1))
    inverse = _inverse_root(ctx, centred, where, epsilon, like=like or x)
    return ctx.op("Mul", centred, inverse), inverse


def _inverse_root(
    ctx: Context, value: ir.Value, axes: ir.Value, epsilon: float, *, like: ir.Value | None = None
) -> ir.Value:
    mean_square = ctx.op("ReduceMean", ctx.op("Mul", value, value), axes, keepdims=1)
    return ctx.op("Reciprocal", ctx.op("Sqrt", ctx.op("Add", mean_square, ctx.scalar(epsilon, like or value))))


def _through(ctx: Context, g: ir.Value, unit: ir.Value, inverse: ir.Value, axes: Sequence[int]) -> ir.Value:
    """``(g − mean g − x̂·mean(g·x̂)) / σ``: what a standardisation passes back."""
    where = ctx.ints(axes)
    mean = ctx.op("ReduceMean", g, where, keepdims=1)
    along = ctx.op("ReduceMean", ctx.op("Mul", g, unit), where, keepdims=1)
    return ctx.op("Mul", inverse, ctx.op("Sub", ctx.op("Sub", g, mean), ctx.op("Mul", unit, along)))


def _affine(ctx: Context, node: ir.Node, g: ir.Value, unit: ir.Value) -> list[ir.Value | None]:
    """Return the cotangents of scale and bias, where they depend on the input."""
    scale, bias = required(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
    if not (ctx.need(scale) or ctx.need(bias)):
        return [None, None]
    y = node.outputs[0]
    g = ctx.expanded(g, y)
    return [
        ctx.unbroadcast(ctx.op("Mul", g, unit), scale, y) if ctx.need(scale) else None,
        ctx.unbroadcast(g, bias, y) if bias is not None and ctx.need(bias) else None,
    ]


RULES: dict[str, Rule] = {
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "LRN": local_response_normalization,
}
