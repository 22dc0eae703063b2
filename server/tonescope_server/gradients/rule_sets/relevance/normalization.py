"""Relevance through normalisations: the statistics that scale are held fixed, and get nothing.

What is left is linear: taking a mean away, scaling, adding a bias. The whole derivative will not do: a normalised value
does not change with the size of its operand, so that the shares would add up to nothing.

Source: Ali et al. 2022, arXiv:2202.07304; Achtibat et al. 2024, arXiv:2402.05602, proposition 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rule_sets.relevance.shares import absorb, stabilised
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.normalization import mean_variance_axes

MVN_EPSILON = 1e-9
_Parts = tuple[ir.Value, ir.Value | None, list[int], float]
"""The operand as it is normalised, the scale that goes with it, the axes, and what is added to the variance."""


def fixed_statistics(parts: Callable[[Context, ir.Node], _Parts], epsilon: float) -> Rule:
    """Make the rule of a normalisation: ε's, of the linear function that it is with its variance held fixed."""

    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        """In proportion to what each element gave, the variance held fixed (Ali et al. 2022)."""
        if any(ctx.need(v) for v in node.inputs[1:]):
            raise ctx.unsupported(node, "its scale or bias depends on the input")
        operand = required(node.inputs[0])
        x, scale, axes, added = parts(ctx, node)
        where = ctx.ints(axes)
        centred = ctx.op("Sub", x, ctx.op("ReduceMean", x, where, keepdims=1))
        variance = ctx.op("ReduceMean", ctx.op("Mul", centred, centred), where, keepdims=1)
        root = ctx.op("Sqrt", ctx.op("Add", variance, ctx.scalar(added, operand)))
        share = plain = ctx.op("Div", relevance[0], stabilised(ctx, node.outputs[0], epsilon))
        if scale is not None:
            share = ctx.op("Mul", share, scale)
        if x is not operand:
            share = ctx.op("Reshape", share, ctx.op("Shape", x))
        g = ctx.op("Div", share, root)
        found = ctx.op("Mul", x, ctx.op("Sub", g, ctx.op("ReduceMean", g, where, keepdims=1)))
        found = found if x is operand else ctx.reshape_like(found, operand)
        if len(node.inputs) > 2:
            absorb(ctx, node.outputs[0], node.outputs[0], plain, [(operand, found)])
        return [found]

    return rule


def layer(ctx: Context, node: ir.Node) -> _Parts:
    """Return what a LayerNormalization normalises."""
    x = required(node.inputs[0])
    rank = ctx.rank(x)
    axes = list(range(ctx.attribute(node, "axis", -1) % rank, rank))
    return x, required(node.inputs[1]), axes, ctx.attribute(node, "epsilon", 1e-5)


def instance(ctx: Context, node: ir.Node) -> _Parts:
    """Return what an InstanceNormalization normalises."""
    x = required(node.inputs[0])
    return x, _per_channel(ctx, node), list(range(2, ctx.rank(x))), ctx.attribute(node, "epsilon", 1e-5)


def group(ctx: Context, node: ir.Node) -> _Parts:
    """Return what a GroupNormalization normalises: groups side by side."""
    apart = ctx.op("Reshape", node.inputs[0], ctx.ints([0, ctx.attribute(node, "num_groups"), -1]))
    return apart, _per_channel(ctx, node), [2], ctx.attribute(node, "epsilon", 1e-5)


def mean_variance(ctx: Context, node: ir.Node) -> _Parts:
    """Return what a MeanVarianceNormalization normalises."""
    return required(node.inputs[0]), None, mean_variance_axes(ctx, node), MVN_EPSILON


def _per_channel(ctx: Context, node: ir.Node) -> ir.Value:
    rank = ctx.rank(required(node.inputs[0]))
    return ctx.op("Reshape", node.inputs[1], ctx.ints([-1, *[1] * (rank - 2)]))
