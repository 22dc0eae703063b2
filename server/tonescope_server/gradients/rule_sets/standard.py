"""The plain gradient: every operator's vector-Jacobian product."""

from __future__ import annotations

from tonescope_server.gradients.rule_set import RuleSet
from tonescope_server.gradients.rules import (
    activation,
    control_flow,
    convolution,
    einsum,
    elementwise,
    indexing,
    matmul,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
    shape,
    spectral,
    unary,
)
from tonescope_server.marker import hookimpl

STANDARD = RuleSet(
    "standard",
    {
        **elementwise.RULES,
        **activation.RULES,
        **unary.RULES,
        **matmul.RULES,
        **convolution.RULES,
        **pooling.RULES,
        **normalization.RULES,
        **reduction.RULES,
        **shape.RULES,
        **indexing.RULES,
        **einsum.RULES,
        **quantization.RULES,
        **recurrent.RULES,
        **resampling.RULES,
        **spectral.RULES,
        **control_flow.RULES,
    },
    summary="The gradient itself.",
)


@hookimpl
def tonescope_rule_sets() -> list[RuleSet]:
    """Offer the standard rule set."""
    return [STANDARD]
