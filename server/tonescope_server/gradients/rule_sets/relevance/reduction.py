"""Relevance through norms and products over axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.reduction import kept, reduced_axes


def norm(op_type: str, epsilon: float) -> Rule:
    """Make the rule of a norm: by what each element adds to the sum under the root, or of absolute values."""

    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        """In proportion to what each element adds: ``|x|/Σ|x|``, or ``x²/Σx²``."""
        x = required(node.inputs[0])
        parts = ctx.op("Abs", x) if op_type == "ReduceL1" else ctx.op("Mul", x, x)
        total = ctx.op("ReduceSum", parts, _axes(ctx, node), keepdims=1)
        shares = ctx.op("Div", parts, ctx.op("Add", total, ctx.scalar(epsilon, x)))
        return [ctx.op("Mul", shares, kept(ctx, node, required(relevance[0])))]

    return rule


def log_sum_exp(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
    """In proportion to what each element adds to the sum: ``exp(x − y)``."""
    x = required(node.inputs[0])
    shares = ctx.op("Exp", ctx.op("Sub", x, kept(ctx, node, node.outputs[0])))
    return [ctx.op("Mul", shares, kept(ctx, node, required(relevance[0])))]


def product(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
    """The same part to every factor."""
    x = required(node.inputs[0])
    one = ctx.op("Expand", ctx.scalar(1.0, x), ctx.shape_of(x))
    parts = ctx.op("Div", one, ctx.op("ReduceSum", one, _axes(ctx, node), keepdims=1))
    return [ctx.op("Mul", parts, kept(ctx, node, required(relevance[0])))]


def _axes(ctx: Context, node: ir.Node) -> ir.Value:
    axes = reduced_axes(ctx, node)
    return ctx.ints(range(ctx.rank(required(node.inputs[0]))) if axes is None else axes)
