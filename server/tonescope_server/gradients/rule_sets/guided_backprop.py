"""Guided backprop: the gradient, with negative parts dropped at every ReLU. A rule per node of the graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, RuleSet
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.gradients.rules.activation import positive
from tonescope_server.marker import hookimpl


def relu(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g · 1[y > 0] · 1[g > 0]``."""
    return [ctx.op("Mul", ctx.op("Relu", cotangents[0]), positive(ctx, node.outputs[0]))]


GUIDED_BACKPROP = STANDARD.override(
    "guided_backprop",
    {"Relu": relu},
    summary="The gradient, without its negative parts at every ReLU; other activations keep the plain gradient.",
    source="Springenberg et al. 2014, arXiv:1412.6806",
)


@hookimpl
def tonescope_rule_sets() -> list[RuleSet]:
    """Offer guided backprop."""
    return [GUIDED_BACKPROP]
