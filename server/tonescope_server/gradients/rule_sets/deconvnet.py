"""Deconvnet: ReLUs are passed backwards as ReLUs of the signal itself, whatever the forward pass was."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, RuleSet
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.marker import hookimpl


def relu(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``g · 1[g > 0]``."""
    return [ctx.op("Relu", cotangents[0])]


DECONVNET = STANDARD.override(
    "deconvnet",
    {"Relu": relu},
    summary="The gradient with ReLUs replaced by ReLUs of the backward signal; other activations keep the gradient.",
    source="Zeiler & Fergus 2014, arXiv:1311.2901",
)


@hookimpl
def tonescope_rule_sets() -> list[RuleSet]:
    """Offer deconvnet."""
    return [DECONVNET]
