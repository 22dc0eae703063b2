"""Convolution. The gradient is taken by the operand only; weights are constants of an inference graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules._windows import Geometry, geometry
from tonescope_server.gradients.rules.elementwise import required

# ONNX Runtime convolves blocks of so many channels on a processor with AVX-512, and fills up what is missing.
BLOCK = 16


def conv(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Gather what each element of the operand gave to the result: a convolution again.

    Refused: weights or bias that depend on the input, sizes known only at run time where auto_pad needs them.
    """
    x, weight = required(node.inputs[0]), required(node.inputs[1])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its weights or bias depend on the input")
    g, factor = ctx.unscaled(required(cotangents[0]))
    if factor is not None:
        # A product per channel leaves the blocked layout: a ResNet spent a fifth of its gradient on 20 of them.
        rows = ctx.op("Reshape", factor, ctx.ints([-1, *[1] * (ctx.rank(weight) - 1)]))
        weight = ctx.typed(ctx.op("Mul", weight, rows), weight)
    return [conv_input_gradient(ctx, node, g, x, weight)]


def conv_input_gradient(ctx: Context, node: ir.Node, g: ir.Value, x: ir.Value, weight: ir.Value) -> ir.Value:
    """Emit the gradient of ``Conv(x, weight)`` by ``x``, in the form that is fastest for the node's geometry.

    Shapes: ``g`` (batch, M, *out), ``weight`` (M, C/group, *kernel) → (batch, C, *size).
    """
    kernel = ctx.static_dims(node, weight, 2, "the kernel")
    shape = geometry(ctx, node, x, kernel)
    group = ctx.attribute(node, "group", 1)
    channels = ctx.static_dims(node, weight, 0, "its weights")[1]
    if all(s == 1 for s in shape.stride) and (group > 1 or channels >= BLOCK):
        return _stride_one(ctx, g, weight, shape, group)
    if group >= BLOCK and channels == 1 and shape.is_static:
        return _depthwise_strided(ctx, g, weight, shape, group)
    return _transposed(ctx, g, x, weight, shape, group)


def _stride_one(ctx: Context, g: ir.Value, weight: ir.Value, shape: Geometry, group: int) -> ir.Value:
    """Convolve with the transposed, flipped weights.

    ConvTranspose gives the same, up to 1.4 × slower dense, 1.3 × grouped and 1.7–3.1 × depthwise. Only where fewer
    channels than a block are wanted is it faster, the more so the fewer: 64 maps of 16 × 16 to one by 3 × 3 took 9 µs
    against 49, to 8 27 against 57, to 12 34 against 55. The weights are turned in the graph: ONNX Runtime folds that
    at load, and exported files hold the weights once.
    """
    begin = [w - 1 - b for w, b in zip(shape.extent, shape.begin, strict=True)]
    end = [w - 1 - e for w, e in zip(shape.extent, shape.end, strict=True)]
    back = ctx.op(
        "Conv", g, flipped(ctx, swapped(ctx, weight, group), shape.kernel),
        pads=[max(p, 0) for p in (*begin, *end)], dilations=list(shape.dilation), group=group,
        kernel_shape=list(shape.kernel), strides=[1] * shape.axes,
    )  # fmt: skip
    return cropped(ctx, back, [max(-p, 0) for p in begin], [max(-p, 0) for p in end])


def _depthwise_strided(ctx: Context, g: ir.Value, weight: ir.Value, shape: Geometry, group: int) -> ir.Value:
    """Put zeros between the elements of ``g``, then convolve with stride one.

    Zeros come from a nearest-neighbour Resize times a mask: depthwise ConvTranspose is up to 2.5 × slower on a block
    of channels or more, and inserting by interior Pad or a 6-D Expand up to 44 × slower.
    """
    grid = [o * s for o, s in zip(shape.outs(), shape.stride, strict=True)]
    scales = ctx.constant([1.0, 1.0, *map(float, shape.stride)], "float32")
    wide = ctx.op(
        "Resize",
        g,
        None,
        scales,
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    mask: ir.Value | None = None
    for axis, (n, s) in enumerate(zip(grid, shape.stride, strict=True)):
        comb = ctx.constant([float(i % s == 0) for i in range(n)], ctx.dtype(g).numpy())
        comb = ctx.op("Reshape", comb, ctx.ints([1, 1, *(n if a == axis else 1 for a in range(shape.axes))]))
        mask = comb if mask is None else ctx.op("Mul", mask, comb)
    spread = ctx.op("Mul", wide, mask)
    # ``spread`` ends in stride − 1 zeros that belong to no window: they stand in for that much end padding.
    end = tuple(n + b - m for n, b, m in zip(shape.sizes(), shape.begin, grid, strict=True))
    dense = Geometry(
        shape.kernel, (1,) * shape.axes, shape.dilation, shape.begin,
        tuple(w - 1 - p for w, p in zip(shape.extent, end, strict=True)), shape.size, tuple(grid),
    )  # fmt: skip
    return _stride_one(ctx, spread, weight, dense, group)


def _transposed(ctx: Context, g: ir.Value, x: ir.Value, weight: ir.Value, shape: Geometry, group: int) -> ir.Value:
    """Transposed convolution, which is the gradient of any convolution; fastest for strided dense and grouped ones.

    One convolution for all phases of the stride, its results interleaved by DepthToSpace, took 1.2–4 × as long, large
    kernels and few channels included (7 × 7, 64 channels to 3: 395 µs against 183); only maps as small as 4 × 4 with
    128 channels gained, a quarter. Convolving between inserted zeros took 1.5–40 × as long.
    """
    common = {
        "strides": list(shape.stride), "dilations": list(shape.dilation), "group": group,
        "kernel_shape": list(shape.kernel),
    }  # fmt: skip
    if shape.is_static:
        left = shape.leftover()
        pads = [*shape.begin, *(e - v for e, v in zip(shape.end, left, strict=True))]
        # What lies past the last window gets no gradient: padding that would be negative there is output padding.
        extra = [max(-p, 0) for p in pads[shape.axes :]]
        return ctx.op("ConvTranspose", g, weight, pads=[max(p, 0) for p in pads], output_padding=extra, **common)
    full = ctx.op("ConvTranspose", g, weight, pads=[0] * 2 * shape.axes, **common)
    return window_of(ctx, full, x, shape)


def window_of(ctx: Context, full: ir.Value, x: ir.Value, shape: Geometry) -> ir.Value:
    """Cut, from the gradient of the padded operand, that of the operand itself, its sizes known at run time only."""
    axes = list(range(2, 2 + shape.axes))
    longer = ctx.pad(full, 2 + shape.axes, {2 + i: (0, s - 1) for i, s in enumerate(shape.stride)})
    begin = ctx.ints(shape.begin)
    end = ctx.op("Add", begin, ctx.op("Shape", x, start=2))
    return ctx.op("Slice", longer, begin, end, ctx.ints(axes))


def cropped(ctx: Context, value: ir.Value, begin: Sequence[int], end: Sequence[int]) -> ir.Value:
    """Drop elements at the start and the end of every spatial axis."""
    if not any((*begin, *end)):
        return value
    last = [-e if e else 2**31 for e in end]
    return ctx.op("Slice", value, ctx.ints(begin), ctx.ints(last), ctx.ints(range(2, 2 + len(begin))))


def swapped(ctx: Context, weight: ir.Value, group: int) -> ir.Value:
    """Exchange input and output channels within each group: (M, C/g, …) → (C, M/g, …)."""
    rank = ctx.rank(weight)
    spatial = list(range(2, rank))
    if group == 1:
        return ctx.op("Transpose", weight, perm=[1, 0, *spatial])
    dims = [d for d in ctx.dims(weight) if isinstance(d, int)]
    apart = ctx.op("Reshape", weight, ctx.ints([group, dims[0] // group, *dims[1:]]))
    turned = ctx.op("Transpose", apart, perm=[0, 2, 1, *(a + 1 for a in spatial)])
    return ctx.op("Reshape", turned, ctx.ints([group * dims[1], dims[0] // group, *dims[2:]]))


def flipped(ctx: Context, weight: ir.Value, kernel: Sequence[int]) -> ir.Value:
    """Reverse the kernel along every spatial axis that is longer than one."""
    axes = [2 + i for i, k in enumerate(kernel) if k > 1]
    if not axes:
        return weight
    return ctx.op(
        "Slice", weight, ctx.ints([-1] * len(axes)), ctx.ints([-(2**31)] * len(axes)), ctx.ints(axes),
        ctx.ints([-1] * len(axes)),
    )  # fmt: skip


def conv_transpose(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """A transposed convolution is the gradient of a convolution, so its own gradient is that convolution.

    Refused: weights or bias that depend on the input, sizes known only at run time where output_shape or auto_pad
    need them.
    """
    x, weight = required(node.inputs[0]), required(node.inputs[1])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its weights or bias depend on the input")
    kernel = ctx.static_dims(node, weight, 2, "the kernel")
    axes = len(kernel)
    strides = list(ctx.attribute(node, "strides", [1] * axes))
    dilations = list(ctx.attribute(node, "dilations", [1] * axes))
    pads = _transposed_pads(ctx, node, x, kernel, strides, dilations)
    return [
        ctx.op(
            "Conv", cotangents[0], weight, strides=strides, dilations=dilations, pads=pads,
            group=ctx.attribute(node, "group", 1), kernel_shape=list(kernel),
        )
    ]  # fmt: skip


def _transposed_pads(
    ctx: Context, node: ir.Node, x: ir.Value, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Return the pads in effect: stated, or what ``output_shape`` and ``auto_pad`` come to."""
    axes = len(kernel)
    auto, shape = ctx.attribute(node, "auto_pad", "NOTSET"), ctx.attribute(node, "output_shape")
    if shape is None and auto in ("NOTSET", "VALID"):
        return list(ctx.attribute(node, "pads", [0] * 2 * axes)) if auto == "NOTSET" else [0] * 2 * axes
    sizes = ctx.static_dims(node, x, 2, "output_shape or auto_pad")
    extra = ctx.attribute(node, "output_padding", [0] * axes)
    wanted = list(shape)[-axes:] if shape is not None else [n * s for n, s in zip(sizes, strides, strict=True)]
    less, more = [], []
    for n, s, d, k, p, w in zip(sizes, strides, dilations, kernel, extra, wanted, strict=True):
        total = max(s * (n - 1) + p + d * (k - 1) + 1 - w, 0)
        less.append(total // 2)
        more.append(total - total // 2)
    return [*less, *more] if auto == "SAME_UPPER" else [*more, *less]


RULES: dict[str, Rule] = {"Conv": conv, "ConvTranspose": conv_transpose}
