"""Sums and means over axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required


def reduce_sum(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Spread the cotangent over the axes that were summed; left unexpanded."""
    return [_spread(ctx, node, required(cotangents[0]), None)]


def reduce_mean(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Spread the cotangent, divided by the number of elements, over the axes; left unexpanded."""
    x = required(node.inputs[0])
    axes = _axes(ctx, node)
    if axes is not None and not axes:
        return [cotangents[0]]
    dims = ctx.dims(x)
    sizes = dims if axes is None else [dims[a] for a in axes]
    if all(isinstance(s, int) for s in sizes):
        return [_spread(ctx, node, required(cotangents[0]), ctx.scalar(prod(int(str(s)) for s in sizes), x))]
    shape = ctx.op("Shape", x)
    picked = shape if axes is None else ctx.op("Gather", shape, ctx.ints(axes))
    count = ctx.op("Cast", ctx.op("ReduceProd", picked, keepdims=0), to=int(ctx.dtype(x)))
    return [_spread(ctx, node, required(cotangents[0]), count)]


def _spread(ctx: Context, node: ir.Node, g: ir.Value, count: ir.Value | None) -> ir.Value:
    x = required(node.inputs[0])
    axes = _axes(ctx, node)
    if axes is not None and not axes:
        return g
    if count is not None:
        g = ctx.op("Div", g, count)
    if not ctx.attribute(node, "keepdims", 1):
        g = ctx.op("Unsqueeze", g, ctx.ints(range(ctx.rank(x)) if axes is None else axes))
    return ctx.mark_unexpanded(g)


def _axes(ctx: Context, node: ir.Node) -> list[int] | None:
    """Return the reduced axes, counted from the front; None for all, an empty list for none."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    found = ctx.value_of(given)
    if given is not None and found is None:
        raise ctx.unsupported(node, "its axes are computed at run time, and constant ones are needed")
    if found is None or found.size == 0:
        return [] if ctx.attribute(node, "noop_with_empty_axes", 0) else None
    rank = ctx.rank(required(node.inputs[0]))
    return sorted(int(a) % rank for a in found.ravel())


RULES: dict[str, Rule] = {"ReduceSum": reduce_sum, "ReduceMean": reduce_mean}
