"""Layer-wise relevance propagation. What flows back is relevance, which starts as the target's own value.

A linear layer hands its relevance to its operands in proportion to what each gave to the result; which part of that
counts is the layer's rule: ε, γ, z⁺, αβ, flat or w². Functions of one element pass relevance on unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule, RuleSet, operator_name
from tonescope_server.gradients.rule_sets.relevance import normalization, recurrent, reduction
from tonescope_server.gradients.rule_sets.relevance.gates import gated
from tonescope_server.gradients.rule_sets.relevance.shares import (
    absorb,
    back,
    passed_by_first,
    passed_on,
    proportional,
    proportional_unmasked,
    stabilised,
)
from tonescope_server.gradients.rule_sets.standard import STANDARD
from tonescope_server.gradients.rules import unary
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.marker import hookimpl

LayerRule = Literal["epsilon", "gamma", "z_plus", "alpha_beta", "flat", "w_square"]
LAYER_RULES: tuple[LayerRule, ...] = ("epsilon", "gamma", "z_plus", "alpha_beta", "flat", "w_square")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class LrpSettings:
    """Which rule each layer has.

    Attributes:
        dense: the rule of Gemm and MatMul.
        convolution: the rule of Conv and ConvTranspose.
        first: the rule of the layers that read the input, None for that of their kind.
        layers: the rule of single layers, by node name or by the name of their result; wins over the kinds.
        epsilon: what stabilises a denominator, times its sign; sign(0) = +1.
        gamma: how much more the contributions of the result's own sign count under the γ rule.
        alpha: the share of positive contributions under αβ; that of negative ones is ``alpha − 1``.
        zero_bias: leave the biases of layers, and constants that are added or that a batch normalisation adds, out of
            every denominator, so that they absorb no relevance.
    """

    dense: LayerRule = "epsilon"
    convolution: LayerRule = "gamma"
    first: LayerRule | None = None
    layers: Mapping[str, LayerRule] = field(default_factory=dict)
    epsilon: float = 1e-6
    gamma: float = 0.25
    alpha: float = 2.0
    zero_bias: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))


def lrp(settings: LrpSettings, name: str = "lrp") -> RuleSet:
    """Make the rule set of these settings.

    Source: Bach et al. 2015, equations 56–60 (ε, αβ); Montavon et al. 2019, section 10.2 (γ, z⁺, flat, w²). The γ rule
    is the generalised one: CSI is signed, and the original, which takes operands to be non-negative, is wrong there.
    """
    rules = {
        **{op: proportional(STANDARD.rules[op], settings.epsilon) for op in _PROPORTIONAL},
        **{op: proportional_unmasked(STANDARD.rules[op], settings.epsilon) for op in ("Softmax", "LogSoftmax")},
        **{op: _shifted(STANDARD.rules[op], settings) for op in ("Add", "Sub", "Sum", "Mean", "BatchNormalization")},
        **{op: _layer(STANDARD.rules[op], settings) for op in LAYERS},
        **dict.fromkeys((*_PASSED, *unary.RULES, *_ACTIVATIONS), passed_on),
        "Mul": _product(STANDARD.rules["Mul"], settings.epsilon),
        "Div": _quotient(STANDARD.rules["Div"], settings.epsilon),
        "Einsum": _product(STANDARD.rules["Einsum"], settings.epsilon),
        "Pow": passed_by_first,
        "Mod": passed_by_first,
        **{op: normalization.fixed_statistics(parts, settings.epsilon) for op, parts in _CENTRED.items()},
        **{op: reduction.norm(op, settings.epsilon) for op in ("ReduceL1", "ReduceL2")},
        "ReduceLogSumExp": reduction.log_sum_exp,
        "ReduceProd": reduction.product,
        "LSTM": recurrent.lstm(settings.epsilon),
        "GRU": recurrent.gru(settings.epsilon),
        "RNN": recurrent.rnn(settings.epsilon),
    }
    return STANDARD.override(
        name,
        rules,
        summary="Relevance, handed back layer by layer; biases absorb what they gave.",
        source="Bach et al. 2015, doi:10.1371/journal.pone.0130140",
        relevance=True,
    )


def _layer(standard: Rule, settings: LrpSettings) -> Rule:
    """Make the rule of a layer with weights: whichever the settings give it."""
    by_name: dict[LayerRule, Callable[..., ir.Value]] = {
        "epsilon": _epsilon,
        "gamma": _gamma,
        "z_plus": _alpha_beta,
        "alpha_beta": _alpha_beta,
        "flat": _flat,
        "w_square": _flat,
    }

    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        """Hand relevance back by the layer's own rule."""
        if ctx.need(node.inputs[0]) and ctx.need(node.inputs[1]):
            return _product(standard, settings.epsilon)(ctx, node, relevance)
        chosen = _chosen(ctx, node, settings)
        layer = _Weighted(ctx, node, standard)
        found: list[ir.Value | None] = [None] * len(node.inputs)
        found[layer.data] = by_name[chosen](layer, required(relevance[0]), settings, chosen)
        return found

    return rule


def _chosen(ctx: Context, node: ir.Node, settings: LrpSettings) -> LayerRule:
    for name in (node.name or "", node.outputs[0].name or ""):
        if name in settings.layers:
            return settings.layers[name]
    if settings.first is not None and _reads_the_input(ctx, node):
        return settings.first
    return settings.convolution if node.op_type.startswith("Conv") else settings.dense


def _reads_the_input(ctx: Context, node: ir.Node) -> bool:
    """Tell whether no other layer with weights lies between the input and this one."""
    waiting = [v for v in node.inputs if v is not None and ctx.need(v)]
    seen: set[ir.Value] = set()
    while waiting:
        value = waiting.pop()
        producer = value.producer()
        if producer is None and not value.is_graph_input():
            raise ctx.unsupported(node, "a rule for the first layer: inside a Scan, what comes before is not one layer")
        if value in seen or producer is None:
            continue
        seen.add(value)
        if operator_name(producer) in LAYERS and any(ctx.need(v) for v in producer.inputs):
            return False
        waiting.extend(v for v in producer.inputs if v is not None and ctx.need(v))
    return True


class _Weighted:
    """One layer with weights, which can be applied again with other operands, weights or bias."""

    def __init__(self, ctx: Context, node: ir.Node, standard: Rule) -> None:
        self.ctx = ctx
        self.node = node
        self.standard = standard
        # MatMul may have its weights on the left.
        self.data = 0 if ctx.need(node.inputs[0]) else 1
        self.x = required(node.inputs[self.data])
        self.weight = required(node.inputs[1 - self.data])
        self.bias = node.inputs[2] if len(node.inputs) > 2 else None

    def forward(self, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
        """Apply the layer with other parts; return its result."""
        ctx = self.ctx
        ctx.also_need(ctx.typed(x, self.x))
        ctx.typed(weight, self.weight)
        operands = [x, weight] if self.data == 0 else [weight, x]
        if bias is not None:
            operands.append(bias)
        return ctx.typed(ctx.again(self.node, operands)[0], self.node.outputs[0])

    def handback(self, z: ir.Value, share: ir.Value) -> ir.Value:
        """Return the operand's part of ``share``, through the application that gave ``z``, times the operand."""
        applied = z.producer()
        assert applied is not None  # forward() made it
        part = back(self.ctx, self.standard, applied, self.ctx.typed(share, z))[self.data]
        return self.ctx.op("Mul", applied.inputs[self.data], part)

    def clipped(self, value: ir.Value, sign: int) -> ir.Value:
        """Return the positive or the negative part of a value."""
        ctx = self.ctx
        zero = ctx.scalar(0.0, value)
        return ctx.typed(ctx.op("Max" if sign > 0 else "Min", value, zero), value)


def _epsilon(layer: _Weighted, relevance: ir.Value, settings: LrpSettings, _: LayerRule) -> ir.Value:
    """``x · Wᵀ(R / (z + ε·sign z))``."""
    ctx = layer.ctx
    copy = ctx.op("Identity", layer.x)
    z = layer.forward(copy, layer.weight, None if settings.zero_bias else layer.bias)
    share = ctx.op("Div", relevance, stabilised(ctx, z, settings.epsilon))
    found = layer.handback(z, share)
    if layer.bias is not None and not settings.zero_bias:
        absorb(ctx, layer.node.outputs[0], z, share, [(layer.x, found)])
    return found


def _gamma(layer: _Weighted, relevance: ir.Value, settings: LrpSettings, _: LayerRule) -> ir.Value:
    """Contributions of the result's own sign count 1 + γ times; results of either sign are treated alike."""
    ctx = layer.ctx
    bias = None if settings.zero_bias else layer.bias
    z = layer.forward(ctx.op("Identity", layer.x), layer.weight, bias)
    is_positive = ctx.op("Cast", ctx.op("Less", ctx.scalar(0.0, z), z), to=int(ctx.dtype(z)))
    is_negative = ctx.op("Cast", ctx.op("Less", z, ctx.scalar(0.0, z)), to=int(ctx.dtype(z)))
    parts = []
    for sign, here in ((1, is_positive), (-1, is_negative)):
        more = _raised(layer, layer.bias, sign, settings.gamma) if bias is not None else None
        # What a positive operand adds has the weight's sign, what a negative one adds the opposite.
        like, unlike = (required(_raised(layer, layer.weight, s, settings.gamma)) for s in (sign, -sign))
        same = layer.forward(layer.clipped(layer.x, 1), like, more)
        other = layer.forward(layer.clipped(layer.x, -1), unlike, None)
        total = ctx.typed(ctx.op("Add", same, other), z)
        share = ctx.op("Mul", here, ctx.op("Div", relevance, stabilised(ctx, total, settings.epsilon)))
        handed = [layer.handback(same, share), layer.handback(other, share)]
        if bias is not None:
            absorb(ctx, layer.node.outputs[0], total, share, [(layer.x, part) for part in handed])
        parts += handed
    return ctx.op("Sum", *parts)


def _raised(layer: _Weighted, value: ir.Value | None, sign: int, gamma: float) -> ir.Value | None:
    """Return ``v + γ·v⁺`` (or ``v + γ·v⁻``)."""
    if value is None:
        return None
    ctx = layer.ctx
    more = ctx.op("Mul", layer.clipped(value, sign), ctx.scalar(gamma, value))
    return ctx.typed(ctx.op("Add", value, more), value)


def _alpha_beta(layer: _Weighted, relevance: ir.Value, settings: LrpSettings, chosen: LayerRule) -> ir.Value:
    """``α`` times the share of positive contributions, less ``α − 1`` times that of negative ones; z⁺ is α = 1."""
    ctx = layer.ctx
    alpha = 1.0 if chosen == "z_plus" else settings.alpha
    parts = []
    for sign, weight in ((1, alpha), (-1, 1.0 - alpha)):
        if weight == 0.0:
            continue
        bias = None if settings.zero_bias or layer.bias is None else layer.clipped(layer.bias, sign)
        same = layer.forward(layer.clipped(layer.x, 1), layer.clipped(layer.weight, sign), bias)
        other = layer.forward(layer.clipped(layer.x, -1), layer.clipped(layer.weight, -sign), None)
        total = ctx.typed(ctx.op("Add", same, other), same)
        share = ctx.op("Div", relevance, stabilised(ctx, total, settings.epsilon))
        share = ctx.op("Mul", share, ctx.scalar(weight, total))
        handed = [layer.handback(same, share), layer.handback(other, share)]
        if bias is not None:
            absorb(ctx, layer.node.outputs[0], total, share, [(layer.x, part) for part in handed])
        parts += handed
    return ctx.op("Sum", *parts)


def _flat(layer: _Weighted, relevance: ir.Value, settings: LrpSettings, chosen: LayerRule) -> ir.Value:
    """Share by weights alone: all equal (flat), or squared (w²); what the operand is does not count."""
    ctx = layer.ctx
    one = ctx.typed(ctx.op("Expand", ctx.scalar(1.0, layer.x), ctx.op("Shape", layer.x)), layer.x)
    if chosen == "flat":
        weight = ctx.op("Expand", ctx.scalar(1.0, layer.weight), ctx.shape_of(layer.weight))
    else:
        weight = ctx.op("Mul", layer.weight, layer.weight)
    z = layer.forward(one, weight, None)
    return layer.handback(z, ctx.op("Div", relevance, stabilised(ctx, z, settings.epsilon)))


def _product(standard: Rule, epsilon: float) -> Rule:
    """Make the rule of a product: where both operands depend on the input each gets half, in proportion.

    A value times a function of itself is one activation, as GELU is where it is spelled out: all goes to the value.
    """
    shared = proportional(standard, epsilon)

    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        """Half to each operand, in proportion to what its elements gave; all to one that a function of it gates."""
        needed = sum(ctx.need(v) for v in node.inputs)
        if needed == 2 and node.op_type == "Mul" and (signal := gated(ctx, node)) is not None:
            return [relevance[0] if i == signal else None for i in range(2)]
        if needed == 1 and node.op_type == "Mul" and _keeps_shape(ctx, node):
            return [relevance[0] if ctx.need(v) else None for v in node.inputs]
        found = shared(ctx, node, relevance)
        if needed < 2:
            return found
        half = [ctx.scalar(1.0 / needed, required(v)) for v in node.inputs]
        return [None if c is None else ctx.op("Mul", c, h) for c, h in zip(found, half, strict=False)]

    return rule


def _keeps_shape(ctx: Context, node: ir.Node) -> bool:
    own = next(v for v in node.inputs if ctx.need(v))
    return ctx.dims(required(own)) == ctx.dims(node.outputs[0])


def _shifted(standard: Rule, settings: LrpSettings) -> Rule:
    """Make the rule of a sum: in proportion; a constant among its terms is a bias, as exporters write MatMul's."""
    shared = proportional(standard, settings.epsilon)

    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        """``x · Jᵀ(R / (z + ε·sign z))``; all to the operands that are no biases, where biases are left out."""
        given, result = required(relevance[0]), node.outputs[0]
        terms = [v for v in node.inputs if v is not None and ctx.need(v)]
        if len(terms) == len(node.inputs):
            return shared(ctx, node, relevance)
        if not settings.zero_bias:
            found = shared(ctx, node, relevance)
            share = ctx.op("Div", given, stabilised(ctx, result, settings.epsilon))
            handed = [(v, c) for v, c in zip(node.inputs, found, strict=False) if v is not None and c is not None]
            absorb(ctx, result, result, share, handed)
            return found
        if len(terms) > 1:  # of a mean, too: their number is in what each gives and in what all do
            given = ctx.op("Div", given, stabilised(ctx, ctx.op("Sum", *terms), settings.epsilon, result))
        parts = {v: given if len(terms) == 1 else ctx.op("Mul", v, given) for v in terms}
        return [ctx.unbroadcast(parts[v], v, result) if v in parts else None for v in node.inputs]

    return rule


def _quotient(standard: Rule, epsilon: float) -> Rule:
    """Make the rule of a quotient: the numerator gets all; a denominator gets it where it is all there is."""
    shared = proportional(standard, epsilon)

    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        """To the numerator, the denominator being a scale; of a quotient of a constant, to the denominator."""
        if ctx.need(node.inputs[0]):
            return [shared(ctx, node, relevance)[0], None]
        return [None, ctx.unbroadcast(required(relevance[0]), required(node.inputs[1]), node.outputs[0])]

    return rule


DEFAULTS = LrpSettings()
_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh")
# Relevance follows the elements themselves: the standard rules move it as they move a cotangent. A normalisation
# without a mean is a scale that is held fixed, and a quantised value is the value.
_PASSED: tuple[str, ...] = (
    "Identity", "Cast", "CastLike", "Dropout", "RMSNormalization", "LpNormalization", "LRN", "QuantizeLinear",
    "DequantizeLinear",
)  # fmt: skip
_CENTRED = {
    "LayerNormalization": normalization.layer,
    "InstanceNormalization": normalization.instance,
    "GroupNormalization": normalization.group,
    "MeanVarianceNormalization": normalization.mean_variance,
}
_PROPORTIONAL = (
    "GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum",
    "MaxPool", "LpPool", "GlobalLpPool", "Expand", "CumSum", "Resize", "DFT", "STFT",
)  # fmt: skip

LRP = lrp(DEFAULTS)
ATTN_LRP = lrp(LrpSettings(convolution="epsilon"), "attn_lrp").override(
    "attn_lrp",
    {},  # what differs from LRP is that convolutions have ε: products, softmax and norms are the same in both
    summary="Relevance through transformers: products in halves, softmax by its first-order part, norms held fixed.",
    source="Achtibat et al. 2024, arXiv:2402.05602",
)


@hookimpl
def tonescope_rule_sets() -> list[RuleSet]:
    """Offer LRP with its usual settings, and its form for transformers."""
    return [LRP, ATTN_LRP]
