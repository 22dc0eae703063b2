"""Quantised models (QDQ): the gradient is a clipped straight-through estimate, and results say so.

Rounding has no useful derivative, so it is passed through; but where a value is saturated nothing flows. ONNX
Runtime's quantiser removes ReLUs and lets the saturation do their work, which is why passing through everywhere is poor
(cosine 0.14–0.47 to the float gradient, against 0.97 and more with clipping).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule, operator_name
from tonescope_server.gradients.rules.elementwise import required

_RANGES = {
    ir.DataType.UINT8: (0, 255), ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT16: (0, 65535), ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT4: (0, 15), ir.DataType.INT4: (-8, 7),
}  # fmt: skip


def rounds(node: ir.Node) -> bool:
    """Tell whether an operator's derivative is an estimate: quantising, or a Cast to a floating type below 16 bits."""
    name, kind = operator_name(node), node.outputs[0].dtype
    if name in ("Cast", "CastLike"):
        return kind is not None and kind.is_floating_point() and kind.bitwidth < 16
    return name == "QuantizeLinear"


def quantize_linear(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g / scale`` where the value is not saturated, zero where it is.

    Refused: blocked quantisation, types other than integers of 4, 8 or 16 bits, a scale that depends on the input.
    """
    x = required(node.inputs[0])
    scale, zero = _parameters(ctx, node, x)
    kind = node.outputs[0].dtype
    if kind not in _RANGES:
        raise ctx.unsupported(node, f"quantised type {kind}: expected integers of 4, 8 or 16 bits")
    low, high = _RANGES[kind]
    level = ctx.op("Add", ctx.op("Div", x, scale), zero)
    inside = ctx.op(
        "And",
        ctx.op("GreaterOrEqual", level, ctx.scalar(low, x)),
        ctx.op("LessOrEqual", level, ctx.scalar(high, x)),
    )
    back = ctx.op("Div", cotangents[0], scale)
    return [ctx.op("Where", inside, back, ctx.scalar(0.0, x))]


def dequantize_linear(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g · scale``.

    Refused: blocked quantisation, a scale that depends on the input.
    """
    scale, _ = _parameters(ctx, node, node.outputs[0])
    return [ctx.op("Mul", cotangents[0], scale)]


def _parameters(ctx: Context, node: ir.Node, like: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return scale and zero point, in ``like``'s type and broadcastable to it."""
    if ctx.attribute(node, "block_size", 0):
        raise ctx.unsupported(node, "blocked quantisation")
    scale = required(node.inputs[1])
    if ctx.need(scale):
        raise ctx.unsupported(node, "its scale depends on the input")
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    kind = int(ctx.dtype(like))
    shift = ctx.scalar(0.0, like) if zero is None else ctx.op("Cast", zero, to=kind)
    if ctx.rank(scale) == 0 or ctx.dims(scale) == (1,):
        return scale, shift
    rank = ctx.rank(like)
    axis = ctx.attribute(node, "axis", 1) % rank
    shape = ctx.ints(-1 if a == axis else 1 for a in range(rank))
    return ctx.op("Reshape", scale, shape), shift if zero is None else ctx.op("Reshape", shift, shape)


RULES: dict[str, Rule] = {"QuantizeLinear": quantize_linear, "DequantizeLinear": dequantize_linear}
