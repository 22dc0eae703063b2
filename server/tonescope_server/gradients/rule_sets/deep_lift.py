"""DeepLIFT's rescale rule, made exactly complete: multipliers between a window and a reference.

What flows back is the multiplier Δtarget/Δvalue. Linear operators pass it on as they pass a gradient; a function of one
element by Δy/Δx, and so is a step, be it a rounding or a comparison; a product by the averages of its operands at both
ends; a quotient likewise, but that the end which is nearer to dividing by zero counts less; a maximum by the
cross-maximum. Whatever is none of these is taken apart into them, so that Σ multiplier·Δinput is Δtarget to rounding,
and nothing depends on the rest of the batch.
"""

from __future__ import annotations

from tonescope_server.gradients.rule_set import STEPS, RuleSet
from tonescope_server.gradients.rule_sets.multipliers import (
    arithmetic,
    extremes,
    normalization,
    recurrent,
    reduction,
    softmax,
    steps,
)
from tonescope_server.gradients.rule_sets.multipliers.differences import averaged, rescale, rescale_exact
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.gradients.rules import activation, unary
from tonescope_server.marker import hookimpl

_NOT_OF_ONE_ELEMENT = {"Neg", "PRelu"}
_RESCALED = {**unary.RULES, **{k: v for k, v in activation.RULES.items() if not k.endswith("oftmax")}}
_EXACT = ("Relu", "Abs")
_BILINEAR = ("MatMul", "Gemm")
_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
_CROSSED = ("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin")
# Operators whose change no rule here splits exactly: refused rather than done wrongly.
_REFUSED = ("TopK", "If", "Scan")

DEEP_LIFT = STANDARD.without(*_REFUSED).override(
    "deep_lift",
    {
        **{name: rescale(rule) for name, rule in _RESCALED.items() if name not in _NOT_OF_ONE_ELEMENT},
        **{name: rescale_exact(STANDARD.rules[name]) for name in _EXACT},
        **{name: averaged(STANDARD.rules[name]) for name in _BILINEAR},
        "PRelu": arithmetic.prelu,
        "Einsum": arithmetic.contraction,
        **{name: extremes.crossed(STANDARD.rules[name]) for name in _CROSSED},
        **dict.fromkeys(STEPS, steps.step),
        **dict.fromkeys(_COMPARISONS, steps.comparison),
        "Not": steps.negation,
        "And": steps.conjunction,
        "Or": steps.disjunction,
        "Xor": steps.exclusion,
        "Cast": steps.cast,
        "CastLike": steps.cast,
        "Max": extremes.extreme,
        "Min": extremes.extreme,
        "Mul": arithmetic.product,
        "Div": arithmetic.division,
        "Pow": arithmetic.power,
        "Mod": arithmetic.modulo,
        "Where": arithmetic.choice,
        "QuantizeLinear": arithmetic.quantize_linear,
        "ScatterElements": arithmetic.scatter,
        "ScatterND": arithmetic.scatter,
        "Softmax": softmax.softmax,
        "LogSoftmax": softmax.log_softmax,
        "ReduceLogSumExp": softmax.reduce_log_sum_exp,
        "ReduceL1": reduction.reduce_l1,
        "ReduceL2": reduction.reduce_l2,
        "LpPool": reduction.lp_pool,
        "GlobalLpPool": reduction.lp_pool,
        "ReduceProd": reduction.reduce_product,
        "LayerNormalization": normalization.layer_normalization,
        "InstanceNormalization": normalization.instance_normalization,
        "GroupNormalization": normalization.group_normalization,
        "RMSNormalization": normalization.rms_normalization,
        "MeanVarianceNormalization": normalization.mean_variance_normalization,
        "LpNormalization": normalization.lp_normalization,
        "LRN": normalization.local_response_normalization,
        "LSTM": recurrent.lstm,
        "GRU": recurrent.gru,
        "RNN": recurrent.rnn,
    },
    summary="DeepLIFT's rescale rule: multipliers between the window and a reference; exactly complete.",
    source="Shrikumar et al. 2017, arXiv:1704.02685",
    reference=True,
)


@hookimpl
def tonescope_rule_sets() -> list[RuleSet]:
    """Offer DeepLIFT."""
    return [DEEP_LIFT]
