"""Relevance through LSTM, GRU and RNN: of a product of a gate and a signal, the signal gets all and the gate nothing.

What is left of a step are sums, shared in proportion to their terms, and functions of one element, which pass relevance
on. All shares are known beforehand; only the short recursion runs step by step.

Source: Arras et al. 2017, arXiv:1706.07206, section 3.2 ("LRP-all"); Arras et al. 2019, arXiv:1909.12114.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rule_sets.relevance.shares import stabilised
from tonescope_server.gradients.rules._layer import (
    Layer,
    gates_of,
    products,
    sums,
    through_layer,
    to_input,
)
from tonescope_server.gradients.rules._recursion import Times, recursion
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.recurrent import (
    cells_of,
    refuse_gru,
    refuse_lstm,
    refuse_rnn,
    reset_product,
    rows_of,
)

_Values = Sequence[ir.Value]
_Stepped = tuple[list[ir.Value], list[ir.Value]]
_Check = Callable[[Context, ir.Node], None]


def lstm(epsilon: float) -> Rule:
    """Make the rule of LSTM."""
    return _rule(refuse_lstm, _lstm_layer, epsilon, "the candidate gets what it wrote into the cell, gates nothing")


def gru(epsilon: float) -> Rule:
    """Make the rule of GRU."""
    return _rule(refuse_gru, _gru_layer, epsilon, "the candidate gets what it gave to the state, gates nothing")


def rnn(epsilon: float) -> Rule:
    """Make the rule of RNN."""
    return _rule(refuse_rnn, _rnn_layer, epsilon, "a dense layer at every step")


def _rule(refuse: _Check, layer_rule: Callable[..., list[ir.Value]], epsilon: float, about: str) -> Rule:
    def rule(ctx: Context, node: ir.Node, relevance: Cotangents) -> Sequence[ir.Value | None]:
        refuse(ctx, node)

        def shared(ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: _Values) -> list[ir.Value]:
            return layer_rule(_Shares(ctx, layer, epsilon), node, layer, cell, above)

        return through_layer(ctx, node, relevance, shared)

    rule.__doc__ = f"Step by step: {about}."
    return rule


class _Shares:
    """Emits quotients of one layer with stabilised denominators."""

    def __init__(self, ctx: Context, layer: Layer, epsilon: float) -> None:
        self.ctx = ctx
        self.layer = layer
        self.epsilon = epsilon

    def over(self, part: ir.Value, whole: ir.Value) -> ir.Value:
        """Return ``part / (whole + ε·sign whole)``."""
        return self.ctx.op("Div", part, stabilised(self.ctx, whole, self.epsilon, self.layer.x))

    def to_input(self, share: ir.Value, gate: int) -> ir.Value:
        """Return the relevance of the sequence, of shares of a gate's sum."""
        ctx, layer = self.ctx, self.layer
        return ctx.op("Mul", layer.x, to_input(ctx, layer, share, rows_of(ctx, layer, layer.w, gate)))


def _lstm_layer(shares: _Shares, node: ir.Node, layer: Layer, cell: ir.Value | None, above: _Values) -> list[ir.Value]:
    ctx = shares.ctx
    totals = gates_of(ctx, sums(ctx, layer), layer)
    i, f, c = ctx.op("Sigmoid", totals[0]), ctx.op("Sigmoid", totals[2]), ctx.op("Tanh", totals[3])
    written = ctx.op("Mul", i, c)
    before, cells = cells_of(ctx, layer, required(cell), f, written)
    kept = shares.over(ctx.op("Mul", f, before), cells)
    new = shares.over(shares.over(written, cells), totals[3])

    def step(inner: Context, states: _Values, inputs: _Values, weights: Sequence[Times]) -> _Stepped:
        given, keep, put, previous = inputs
        of_cell = inner.op("Add", states[1], inner.op("Add", given, states[0]))
        share = inner.op("Mul", of_cell, put)
        back = inner.op("Mul", previous, weights[0](share, None))
        return [back, inner.op("Mul", of_cell, keep)], [share]

    inputs = [above[0], kept, new, layer.previous]
    states, (share,) = recursion(ctx, layer, step, above[1:], inputs, [rows_of(ctx, layer, layer.r, 3)], reverse=True)
    return [shares.to_input(share, 3), *states]


def _gru_layer(shares: _Shares, node: ir.Node, layer: Layer, cell: ir.Value | None, above: _Values) -> list[ir.Value]:
    ctx = shares.ctx
    (xz, xr, xn), (hz, hr, hn) = (gates_of(ctx, v, layer) for v in products(ctx, layer))
    z, r = ctx.op("Sigmoid", ctx.op("Add", xz, hz)), ctx.op("Sigmoid", ctx.op("Add", xr, hr))
    after = ctx.attribute(node, "linear_before_reset", 0)
    total = ctx.op("Add", xn, ctx.op("Mul", r, hn) if after else reset_product(ctx, layer, r))
    n = ctx.op("Tanh", total)
    kept = shares.over(ctx.op("Mul", z, layer.previous), layer.h)
    given_up = ctx.op("Mul", ctx.op("Sub", ctx.scalar(1.0, layer.x), z), n)
    new = shares.over(shares.over(given_up, layer.h), total)

    def step(inner: Context, states: _Values, inputs: _Values, weights: Sequence[Times]) -> _Stepped:
        given, keep, put, previous, reset = inputs
        of_state = inner.op("Add", given, states[0])
        share = inner.op("Mul", of_state, put)
        if after:
            back = inner.op("Mul", previous, weights[0](inner.op("Mul", share, reset), None))
        else:
            back = inner.op("Mul", inner.op("Mul", previous, reset), weights[0](share, None))
        return [inner.op("Add", back, inner.op("Mul", of_state, keep))], [share]

    inputs = [above[0], kept, new, layer.previous, r]
    states, (share,) = recursion(ctx, layer, step, above[1:], inputs, [rows_of(ctx, layer, layer.r, 2)], reverse=True)
    return [shares.to_input(share, 2), *states]


def _rnn_layer(shares: _Shares, node: ir.Node, layer: Layer, cell: ir.Value | None, above: _Values) -> list[ir.Value]:
    ctx = shares.ctx
    put = shares.over(ctx.scalar(1.0, layer.x), sums(ctx, layer))

    def step(inner: Context, states: _Values, inputs: _Values, weights: Sequence[Times]) -> _Stepped:
        given, whole, previous = inputs
        share = inner.op("Mul", inner.op("Add", given, states[0]), whole)
        return [inner.op("Mul", previous, weights[0](share, None))], [share]

    states, (share,) = recursion(ctx, layer, step, above[1:], [above[0], put, layer.previous], [layer.r], reverse=True)
    return [shares.to_input(share, 0), *states]
