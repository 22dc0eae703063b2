"""Multipliers of LSTM, GRU and RNN: the recursion of the gradient, its shares replaced by those of differences.

A step is made of sums, products and functions of one element: ``Δ(f·c') = f̄·Δc' + c̄'·Δf`` and ``Δσ = Δσ/Δz·Δz``. What
is left is linear in the multiplier, as the gradient's recursion is in the cotangent, so that the same one serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents
from tonescope_server.gradients.rule_sets.multipliers.differences import mean_of, slope
from tonescope_server.gradients.rules._layer import (
    Layer,
    gates_of,
    initial_state,
    layer_of,
    products,
    sums,
    through_layer,
)
from tonescope_server.gradients.rules.elementwise import required
from tonescope_server.gradients.rules.recurrent import (
    cells_of,
    gru_back,
    gru_reset_first_back,
    lstm_back,
    refuse_gru,
    refuse_lstm,
    refuse_rnn,
    reset_product,
    rnn_back,
)

_Values = Sequence[ir.Value]


def lstm(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Gates and cell rescaled, their products averaged."""
    refuse_lstm(ctx, node)
    return through_layer(ctx, node, cotangents, _lstm_layer)


def gru(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Gates and candidate rescaled, their products averaged."""
    refuse_gru(ctx, node)
    return through_layer(ctx, node, cotangents, _gru_layer)


def rnn(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Each state rescaled."""
    refuse_rnn(ctx, node)
    return through_layer(ctx, node, cotangents, _rnn_layer)


def _at_reference(ctx: Context, node: ir.Node, layer: Layer) -> tuple[ir.Node, Layer]:
    """Return the same node, and the layer that it is, at the reference."""
    twins = [twin for v in node.outputs if (twin := ctx.reference(v)) is not v]
    there = twins[0].producer() if twins else None
    if there is None:
        raise ctx.unsupported(node, "its sequence does not depend on the input")
    return there, layer_of(ctx, there)


class _Ends:
    """What is worked out at both ends alike."""

    def __init__(self, ctx: Context, like: ir.Value) -> None:
        self.ctx = ctx
        self.one = ctx.scalar(1.0, like)

    def mean(self, pair: _Values) -> ir.Value:
        return mean_of(self.ctx, *pair)

    def sigmoid(self, z: _Values) -> tuple[_Values, ir.Value]:
        """Return the sigmoid at both ends, and ``Δσ/Δz``."""
        ctx = self.ctx
        s = [ctx.op("Sigmoid", v) for v in z]
        derivative = ctx.op("Sub", s[0], ctx.op("Mul", s[0], s[0]))
        return s, slope(ctx, s, z, derivative)

    def tanh(self, z: _Values) -> tuple[_Values, ir.Value]:
        """Return the hyperbolic tangent at both ends, and its Δ over Δz."""
        ctx = self.ctx
        t = [ctx.op("Tanh", v) for v in z]
        derivative = ctx.op("Sub", self.one, ctx.op("Mul", t[0], t[0]))
        return t, slope(ctx, t, z, derivative)

    def each(self, function: Callable[..., ir.Value], *pairs: _Values) -> _Values:
        """Apply a function at either end."""
        return [function(*values) for values in zip(*pairs, strict=True)]


def _lstm_layer(
    ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: Sequence[ir.Value]
) -> list[ir.Value]:
    there, layer0 = _at_reference(ctx, node, layer)
    ends, layers = _Ends(ctx, layer.x), (layer, layer0)
    start = [required(cell), initial_state(ctx, there, 6)]
    totals = [gates_of(ctx, sums(ctx, one), layer) for one in layers]
    (i, by_i), (o, by_o), (f, by_f) = (ends.sigmoid([one[k] for one in totals]) for k in range(3))
    c, by_c = ends.tanh([one[3] for one in totals])
    written = ends.each(lambda a, b: ctx.op("Mul", a, b), i, c)
    both = [cells_of(ctx, one, c0, forget, w) for one, c0, forget, w in zip(layers, start, f, written, strict=True)]
    before, cells = zip(*both, strict=True)
    shown, by_cell = ends.tanh(cells)
    parts = [
        ctx.op("Mul", ends.mean(c), by_i),
        ctx.op("Mul", ends.mean(shown), by_o),
        ctx.op("Mul", ends.mean(before), by_f),
        ctx.op("Mul", ends.mean(i), by_c),
    ]
    to_cell = ctx.op("Mul", ends.mean(o), by_cell)
    return lstm_back(ctx, layer, above, to_cell, ctx.op("Concat", *parts, axis=3), ends.mean(f))


def _gru_layer(
    ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: Sequence[ir.Value]
) -> list[ir.Value]:
    _, layer0 = _at_reference(ctx, node, layer)
    ends, layers = _Ends(ctx, layer.x), (layer, layer0)
    parts = [[gates_of(ctx, v, layer) for v in products(ctx, one)] for one in layers]
    z, by_z = ends.sigmoid([ctx.op("Add", by_x[0], by_h[0]) for by_x, by_h in parts])
    r, by_r = ends.sigmoid([ctx.op("Add", by_x[1], by_h[1]) for by_x, by_h in parts])
    after = bool(ctx.attribute(node, "linear_before_reset", 0))
    if after:
        kept = [ctx.op("Mul", gate, by_h[2]) for gate, (_, by_h) in zip(r, parts, strict=True)]
    else:
        kept = [reset_product(ctx, one, gate) for one, gate in zip(layers, r, strict=True)]
    n, by_n = ends.tanh([ctx.op("Add", by_x[2], k) for (by_x, _), k in zip(parts, kept, strict=True)])
    # h = n + z·(h' − n)
    gap = [ctx.op("Sub", one.previous, candidate) for one, candidate in zip(layers, n, strict=True)]
    update, reset = ends.mean(z), ends.mean(r)
    to_z = ctx.op("Mul", ends.mean(gap), by_z)
    to_n = ctx.op("Mul", ctx.op("Sub", ends.one, update), by_n)
    if after:
        to_r = ctx.op("Mul", ctx.op("Mul", to_n, ends.mean([by_h[2] for _, by_h in parts])), by_r)
        return gru_back(ctx, layer, above, (to_z, to_r, to_n), update, reset)
    to_r = ctx.op("Mul", ends.mean([one.previous for one in layers]), by_r)
    return gru_reset_first_back(ctx, layer, above, (to_z, to_r, to_n), update, reset)


def _rnn_layer(
    ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: Sequence[ir.Value]
) -> list[ir.Value]:
    _, layer0 = _at_reference(ctx, node, layer)
    totals = [sums(ctx, one) for one in (layer, layer0)]
    given = ctx.attribute(node, "activations", None) or ["Tanh"]
    if given[0] == "Relu":
        step = ctx.op("Cast", ctx.op("Greater", totals[0], ctx.scalar(0.0, layer.x)), to=int(ctx.dtype(layer.x)))
        share = slope(ctx, [ctx.op("Relu", v) for v in totals], totals, step)
    else:
        _, share = _Ends(ctx, layer.x).tanh(totals)
    return rnn_back(ctx, layer, above, share)
