"""Activations: unary functions of one element, and the two softmaxes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule, accepts_unexpanded
from tonescope_server.gradients.rules.elementwise import required


@accepts_unexpanded
def relu(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g · 1[y > 0]``, with the derivative at 0 taken as 0."""
    return [ctx.op("Mul", cotangents[0], positive(ctx, node.outputs[0]))]


def positive(ctx: Context, value: ir.Value) -> ir.Value:
    """Return ``1[value > 0]`` in the value's own type.

    Asked of a ReLU's *output*: reading its input would keep ONNX Runtime from fusing the ReLU into the convolution
    before it. HardSigmoid with a huge slope stays in the blocked layout of the convolutions, where Where and Cast do
    not (CountNet gradient 48 µs against 59); it errs only for 0 < value < 3.3e−39, below the normal float32 range.
    """
    if ctx.portable or value.dtype != ir.DataType.FLOAT:
        return ctx.op("Cast", ctx.op("Greater", value, ctx.scalar(0.0, value)), to=int(ctx.dtype(value)))
    return ctx.typed(ctx.op("HardSigmoid", value, alpha=3e38, beta=0.0), value)


def leaky_relu(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g`` where ``x ≥ 0``, ``α·g`` where ``x < 0``; at 0 the derivative is 1, ONNX's own choice of branch."""
    x = required(node.inputs[0])
    g = required(cotangents[0])
    slope = ctx.scalar(ctx.attribute(node, "alpha", 0.01), x)
    return [ctx.op("Where", ctx.op("Less", x, ctx.scalar(0.0, x)), ctx.op("Mul", g, slope), g)]


def sigmoid(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g · y·(1 − y)``."""
    y = node.outputs[0]
    return [ctx.op("Mul", cotangents[0], ctx.op("Mul", y, ctx.op("Sub", ctx.scalar(1.0, y), y)))]


def tanh(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g · (1 − y²)``."""
    y = node.outputs[0]
    return [ctx.op("Mul", cotangents[0], ctx.op("Sub", ctx.scalar(1.0, y), ctx.op("Mul", y, y)))]


def softmax(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``y·(g − Σ g·y)`` along the axis; 0 for a row masked as a whole, if a Where after it chooses."""
    y = node.outputs[0]
    if is_mended(y):
        y = ctx.op("Where", ctx.op("IsNaN", y), ctx.scalar(0.0, y), y)
    weighted = ctx.op("Mul", cotangents[0], y)
    total = ctx.op("ReduceSum", weighted, ctx.ints([ctx.attribute(node, "axis", -1)]), keepdims=1)
    return [ctx.op("Mul", y, ctx.op("Sub", cotangents[0], total))]


def is_mended(value: ir.Value) -> bool:
    """Tell whether a Where chooses between a softmax and something else, as ONNX's own Attention does.

    A row of nothing but −∞ has no softmax; what is put in its place does not depend on it, and zero times NaN is NaN.
    """
    readers = [n.op_type for n, i in value.uses() if n.op_type != "Where" or i > 0]
    further = (n.outputs[0] for n, _ in value.uses() if n.op_type in ("Cast", "CastLike", "Identity"))
    return "Where" in readers or any(is_mended(v) for v in further)


def log_softmax(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g − softmax·Σ g`` along the axis."""
    total = ctx.op("ReduceSum", cotangents[0], ctx.ints([ctx.attribute(node, "axis", -1)]), keepdims=1)
    return [ctx.op("Sub", cotangents[0], ctx.op("Mul", ctx.op("Exp", node.outputs[0]), total))]


RULES: dict[str, Rule] = {
    "Relu": relu,
    "LeakyRelu": leaky_relu,
    "Sigmoid": sigmoid,
    "Tanh": tanh,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
}
