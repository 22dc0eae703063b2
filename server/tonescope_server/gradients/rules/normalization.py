"""Normalisation layers at inference time."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required


def batch_normalization(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g · scale/√(var + ε)`` per channel: at inference the statistics are constants."""
    if ctx.attribute(node, "training_mode", 0):
        raise ctx.unsupported(node, "training_mode is 1: its result depends on the rest of the batch")
    x, scale, variance = required(node.inputs[0]), required(node.inputs[1]), required(node.inputs[4])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its scale, bias or statistics depend on the input")
    epsilon = ctx.scalar(ctx.attribute(node, "epsilon", 1e-5), variance)
    factor = ctx.op("Div", scale, ctx.op("Sqrt", ctx.op("Add", variance, epsilon)))
    per_channel = ctx.op("Reshape", factor, ctx.ints([-1, *[1] * (ctx.rank(x) - 2)]))
    return [ctx.op("Mul", cotangents[0], per_channel)]


RULES: dict[str, Rule] = {"BatchNormalization": batch_normalization}
