"""Operators that move elements without changing them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule, accepts_unexpanded
from tonescope_server.gradients.rules.elementwise import required


def reshape(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Reshape back; serves Reshape and Flatten."""
    return [ctx.reshape_like(required(cotangents[0]), required(node.inputs[0]))]


@accepts_unexpanded
def squeeze(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Put the axes back."""
    x, g = required(node.inputs[0]), required(cotangents[0])
    axes = ctx.value_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return [ctx.reshape_like(ctx.expanded(g, node.outputs[0]), x)]
    return [_same_extent(ctx, g, ctx.op("Unsqueeze", g, ctx.constant(axes)))]


@accepts_unexpanded
def unsqueeze(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Take the axes away again."""
    x, g = required(node.inputs[0]), required(cotangents[0])
    if not isinstance(ctx.dims(node.outputs[0])[0], str) and any(isinstance(d, str) for d in ctx.dims(x)[:1]):
        g = ctx.expanded(g, node.outputs[0])  # what becomes the first axis may be one to widen
    axes = ctx.value_of(node.inputs[1])
    # ONNX Runtime takes a scalar axis to insert, though not one to take away.
    where = node.inputs[1] if axes is None else ctx.ints(axes.ravel().tolist())
    return [_same_extent(ctx, g, ctx.op("Squeeze", g, where))]


def transpose(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Transpose by the inverse permutation."""
    rank = ctx.rank(required(node.inputs[0]))
    order = list(ctx.attribute(node, "perm", list(reversed(range(rank)))))
    return [ctx.op("Transpose", cotangents[0], perm=[order.index(i) for i in range(rank)])]


def concat(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Give each operand its own stretch of the cotangent."""
    g = required(cotangents[0])
    axis = ctx.attribute(node, "axis") % ctx.rank(node.outputs[0])
    sizes = [ctx.dims(required(v))[axis] for v in node.inputs]
    if all(isinstance(s, int) for s in sizes):
        lengths: ir.Value = ctx.ints(s for s in sizes if isinstance(s, int))
    else:
        each = [ctx.op("Shape", v, start=axis, end=axis + 1) for v in node.inputs]
        lengths = ctx.op("Concat", *each, axis=0)
    return list(ctx.ops("Split", g, lengths, outputs=len(node.inputs), axis=axis))


def _same_extent(ctx: Context, before: ir.Value, after: ir.Value) -> ir.Value:
    """Carry over that a cotangent is only broadcastable: moving axes of size one does not change that."""
    return ctx.mark_unexpanded(after) if ctx.is_unexpanded(before) else after


RULES: dict[str, Rule] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
}
