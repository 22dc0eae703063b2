"""Pools over windows, and over everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules._first_match import by_first_match, comparisons
from tonescope_server.gradients.rules._windows import Geometry, geometry
from tonescope_server.gradients.rules.convolution import cropped, window_of
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.reduction import short_row, spread_over_row


def global_average_pool(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g`` over the number of positions; left unexpanded, but for short rows.

    Refused: positions whose number is known only at run time.
    """
    x = required(node.inputs[0])
    if row := short_row(ctx, x, range(2, ctx.rank(x))):
        return [spread_over_row(ctx, required(cotangents[0]), x, 1.0 / row)]
    sizes = ctx.static_dims(node, x, 2, "the number of positions")
    return [ctx.mark_unexpanded(ctx.op("Div", cotangents[0], ctx.scalar(float(np.prod(sizes)), x)))]


def global_max_pool(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g`` to the maximum of each channel, in equal parts where several are."""
    x = required(node.inputs[0])
    hits = ctx.op("Cast", ctx.op("Equal", x, node.outputs[0]), to=int(ctx.dtype(x)))
    count = ctx.op("ReduceSum", hits, ctx.ints(range(2, ctx.rank(x))), keepdims=1)
    return [ctx.op("Mul", hits, ctx.op("Div", cotangents[0], count))]


# So many comparisons per sample, and a max pool is differentiated by comparing again. Asked for Indices, ONNX Runtime
# pools outside the blocked layout, by a scalar kernel, and adds by index one element at a time: at 3 × 3, stride 2,
# over 16 maps of 32 × 32 that took 0.21 ms against 0.14 at batch 1 and 7.4 against 5.4 at batch 32, the convolution
# before it counted; at stride 1, 0.57 against 0.19. At 4 × 4, with 2304 comparisons, it took 21 µs against 40.
MANY_COMPARISONS = 16384


def max_pool(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Send each window's cotangent to its maximum: the first in row-major order where several tie.

    Large pools compare again; small ones are asked for their Indices. Both are exact on ties, where a mask of what
    equals the maximum is wrong.

    Refused: ceil_mode that puts a window wholly into the end padding, sizes known only at run time where auto_pad
    needs them.
    """
    x, g = required(node.inputs[0]), required(cotangents[0])
    shape = checked_windows(ctx, node)
    channels = ctx.dims(x)[1]
    if isinstance(channels, int) and comparisons(channels, shape) >= MANY_COMPARISONS:
        return [by_first_match(ctx, x, node.outputs[0], g, shape)]
    if ctx.attribute(node, "storage_order", 0):
        node = _row_major(ctx, node)
    if len(node.outputs) == 1:
        node.resize_outputs(2)
        node.outputs[1].name = f"{node.outputs[0].name}:indices"
        node.outputs[1].type = ir.TensorType(ir.DataType.INT64)
        node.outputs[1].shape = node.outputs[0].shape
    flat = ctx.ints([-1])
    length = ctx.op("Reshape", ctx.op("Size", x), flat)
    places = ctx.op("Reshape", node.outputs[1], flat)
    summed = ctx.scattered("ScatterElements", length, places, ctx.op("Reshape", g, flat), x, axis=0)
    return [ctx.reshape_like(summed, x)]


def _row_major(ctx: Context, node: ir.Node) -> ir.Node:
    """Emit the same pool with its Indices counted by rows; those of the node itself are the model's."""
    kept = [a for a in node.attributes.values() if a.name != "storage_order"]
    twin = ir.Node(node.domain, node.op_type, node.inputs, kept, num_outputs=2, name=f"{node.name}:row_major")
    y = node.outputs[0]
    for mine, kind in zip(twin.outputs, (ctx.dtype(y), ir.DataType.INT64), strict=True):
        mine.shape, mine.type = y.shape, ir.TensorType(kind)
    ctx.graph.append(twin)
    return twin


def lp_pool(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``y = (Σ |x|ᵖ)^(1/p)``: ``sign x·|x|ᵖ⁻¹·Σ g·y¹⁻ᵖ`` over the windows that have the element, 0 where y is.

    Refused: ceil_mode that puts a window wholly into the end padding, sizes known only at run time where auto_pad
    needs them.
    """
    x, y, p = required(node.inputs[0]), node.outputs[0], float(ctx.attribute(node, "p", 2))
    shape = checked_windows(ctx, node)
    spread = spread_over_windows(ctx, _norm_share(ctx, required(cotangents[0]), y, p), x, shape)
    return [ctx.op("Mul", _power_slope(ctx, x, p), spread)]


def global_lp_pool(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As for LpPool, over all positions."""
    x, y, p = required(node.inputs[0]), node.outputs[0], float(ctx.attribute(node, "p", 2))
    return [ctx.op("Mul", _power_slope(ctx, x, p), _norm_share(ctx, required(cotangents[0]), y, p))]


def _power_slope(ctx: Context, x: ir.Value, p: float) -> ir.Value:
    return ctx.op("Mul", ctx.op("Sign", x), ctx.op("Pow", ctx.op("Abs", x), ctx.scalar(p - 1, x)))


def _norm_share(ctx: Context, g: ir.Value, y: ir.Value, p: float) -> ir.Value:
    zero, one = ctx.scalar(0.0, y), ctx.scalar(1.0, y)
    is_zero = ctx.op("Equal", y, zero)
    share = ctx.op("Mul", g, ctx.op("Pow", ctx.op("Where", is_zero, one, y), ctx.scalar(1 - p, y)))
    return ctx.op("Where", is_zero, zero, share)


def average_pool(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Spread each window's cotangent, over its count, to the window's elements.

    Refused: ceil_mode that puts a window wholly into the end padding, sizes known only at run time where auto_pad
    or the edges need them.
    """
    x, g = required(node.inputs[0]), required(cotangents[0])
    kernel = tuple(ctx.attribute(node, "kernel_shape"))
    shape = geometry(ctx, node, x, kernel)
    _refuse_window_in_padding(ctx, node, shape)
    counts = _counts(ctx, node, x, shape)
    scale = 1.0 / counts.astype(ctx.dtype(x).numpy())
    share = ctx.op("Mul", g, ctx.constant(scale.reshape(scale.shape or (1,)), ctx.dtype(x).numpy()))
    if kernel == shape.stride == shape.extent and _tiles(shape):
        factors = ctx.constant([1.0, 1.0, *map(float, kernel)], np.float32)
        return [
            ctx.op(
                "Resize", share, None, factors, mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
        ]  # fmt: skip
    return [spread_over_windows(ctx, share, x, shape)]


def spread_over_windows(ctx: Context, share: ir.Value, x: ir.Value, shape: Geometry) -> ir.Value:
    """Add ``share`` to every element of its window, channel by channel: a transposed convolution with ones.

    Channels are moved into the batch axis: one dense kernel is far faster than a depthwise ConvTranspose.
    """
    single = ctx.op("Reshape", share, ctx.op("Concat", ctx.ints([-1, 1]), ctx.op("Shape", share, start=2), axis=0))
    ones = ctx.constant(np.ones((1, 1, *shape.kernel)), ctx.dtype(x).numpy())
    full = ctx.op(
        "ConvTranspose", single, ones, strides=list(shape.stride), dilations=list(shape.dilation),
        kernel_shape=list(shape.kernel), pads=[0] * 2 * shape.axes,
    )  # fmt: skip
    if shape.is_static:
        left = shape.leftover()
        end = [e - v for e, v in zip(shape.end, left, strict=True)]
        if any(e < 0 for e in end):
            full = ctx.pad(full, 2 + shape.axes, {2 + i: (0, max(-e, 0)) for i, e in enumerate(end)})
        full = cropped(ctx, full, shape.begin, [max(e, 0) for e in end])
    else:
        full = window_of(ctx, full, x, shape)
    return ctx.reshape_like(full, x)


def checked_windows(ctx: Context, node: ir.Node) -> Geometry:
    """Return where a pool's windows lie; refuses one that lies in the padding as a whole."""
    shape = geometry(ctx, node, required(node.inputs[0]), tuple(ctx.attribute(node, "kernel_shape")))
    _refuse_window_in_padding(ctx, node, shape)
    return shape


def _refuse_window_in_padding(ctx: Context, node: ir.Node, shape: Geometry) -> None:
    """Refuse a ceil_mode pool whose last window would lie in the end padding.

    ONNX Runtime leaves that window out and ONNX's shape inference counts it, so every size after it is inferred wrong.
    """
    if not ctx.attribute(node, "ceil_mode", 0) or not shape.is_static:
        return
    for n, b, o, s in zip(shape.sizes(), shape.begin, shape.outs(), shape.stride, strict=True):
        if (o - 1) * s >= n + b:
            raise ctx.unsupported(
                node, "ceil_mode puts a window wholly into the end padding; give explicit pads instead"
            )


def _tiles(shape: Geometry) -> bool:
    return shape.is_static and not any((*shape.begin, *shape.end, *shape.leftover()))


def _counts(ctx: Context, node: ir.Node, x: ir.Value, shape: Geometry) -> npt.NDArray[np.float64]:
    """Return what each window divides its sum by: a number where it is everywhere the same, else per position."""
    ceil = ctx.attribute(node, "ceil_mode", 0)
    include = ctx.attribute(node, "count_include_pad", 0)
    padded = any((*shape.begin, *shape.end))
    if not ceil and (include or not padded):
        return np.asarray(float(np.prod(shape.kernel)))
    ctx.static_dims(node, x, 2, "a count that varies at the edges")
    total: npt.NDArray[np.float64] = np.ones((1, 1, *[1] * shape.axes))
    for axis in range(shape.axes):
        n, begin, end = shape.sizes()[axis], shape.begin[axis], shape.end[axis]
        low, high = (-begin, n + end) if include else (0, n)
        starts = np.arange(shape.outs()[axis]) * shape.stride[axis] - begin
        places = starts[:, None] + np.arange(shape.kernel[axis])[None, :] * shape.dilation[axis]
        count = ((places >= low) & (places < high)).sum(axis=1).astype(np.float64)
        total = total * count.reshape([1, 1, *(-1 if a == axis else 1 for a in range(shape.axes))])
    return total


RULES: dict[str, Rule] = {
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalLpPool": global_lp_pool,
}
