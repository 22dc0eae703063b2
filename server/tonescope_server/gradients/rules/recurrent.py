"""LSTM, GRU and RNN. The forward pass stays native; only a short recursion runs step by step, backwards.

All gates are computed again for every step at once, in one MatMul from the hidden states that the native operator
returned. What is left of the recursion is linear in the cotangent, with coefficients that are known beforehand. The
gradient is taken by the sequence and by the initial states; weights are constants of an inference graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules._layer import (
    Layer,
    ahead,
    delayed,
    gates_of,
    product,
    products,
    sums,
    through_layer,
    to_input,
)
from tonescope_server.gradients.rules._recursion import Times, recursion
from tonescope_server.gradients.rules.elementwise import required

_Values = Sequence[ir.Value]


def lstm(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Gates i, o, f, c: ``c = f·c' + i·c̃``, ``h = o·tanh c``.

    Refused: peepholes, input_forget, sequence_lens, clip, layout 1, other activations, weights that depend on the
    input.
    """
    refuse_lstm(ctx, node)
    return through_layer(ctx, node, cotangents, _lstm_layer)


def gru(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Gates z, r, h: ``h = (1 − z)·h̃ + z·h'``, the reset before or after the product.

    Refused: sequence_lens, clip, layout 1, other activations, weights that depend on the input.
    """
    refuse_gru(ctx, node)
    return through_layer(ctx, node, cotangents, _gru_layer)


def rnn(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``h = tanh(…)``, or ``relu(…)``.

    Refused: sequence_lens, clip, layout 1, other activations, weights that depend on the input.
    """
    refuse_rnn(ctx, node)
    return through_layer(ctx, node, cotangents, _rnn_layer)


def refuse_lstm(ctx: Context, node: ir.Node) -> None:
    """Refuse, by name, an LSTM of a form that no rule knows."""
    _refuse(ctx, node, ["Sigmoid", "Tanh", "Tanh"], peepholes=7)
    if ctx.attribute(node, "input_forget", 0):
        raise ctx.unsupported(node, "input_forget")


def refuse_gru(ctx: Context, node: ir.Node) -> None:
    """Refuse, by name, a GRU of a form that no rule knows."""
    _refuse(ctx, node, ["Sigmoid", "Tanh"])


def refuse_rnn(ctx: Context, node: ir.Node) -> None:
    """Refuse, by name, an RNN of a form that no rule knows."""
    given = ctx.attribute(node, "activations", None) or ["Tanh"]
    _refuse(ctx, node, ["Relu" if given[0] == "Relu" else "Tanh"])


def _refuse(ctx: Context, node: ir.Node, activations: Sequence[str], peepholes: int | None = None) -> None:
    """Refuse, by name, what these rules do not know."""
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        raise ctx.unsupported(node, "sequence_lens: sequences of different lengths in one batch")
    if peepholes is not None and len(node.inputs) > peepholes and node.inputs[peepholes] is not None:
        raise ctx.unsupported(node, "peephole weights")
    if any(ctx.need(v) for v in node.inputs[1:4]):
        raise ctx.unsupported(node, "its weights depend on the input")
    if ctx.attribute(node, "layout", 0):
        raise ctx.unsupported(node, "layout 1")
    if ctx.attribute(node, "clip", None) is not None:
        raise ctx.unsupported(node, "clip")
    given = ctx.attribute(node, "activations", None)
    directions = 2 if ctx.attribute(node, "direction", "forward") == "bidirectional" else 1
    if given and list(given) != list(activations) * directions:
        raise ctx.unsupported(node, f"activations {list(given)}: expected {list(activations) * directions}")


def _lstm_layer(ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: _Values) -> list[ir.Value]:
    i, o, f, c = gates_of(ctx, sums(ctx, layer), layer)
    i, o, f, c = ctx.op("Sigmoid", i), ctx.op("Sigmoid", o), ctx.op("Sigmoid", f), ctx.op("Tanh", c)
    one, c0 = ctx.scalar(1.0, layer.x), required(cell)
    before, cells = cells_of(ctx, layer, c0, f, ctx.op("Mul", i, c))
    shown = ctx.op("Tanh", cells)

    def slope(gate: ir.Value) -> ir.Value:
        """Return the derivative of a sigmoid in terms of its value."""
        return ctx.op("Mul", gate, ctx.op("Sub", one, gate))

    def bend(value: ir.Value) -> ir.Value:
        """Return the derivative of a tanh in terms of its value."""
        return ctx.op("Sub", one, ctx.op("Mul", value, value))

    to_cell = ctx.op("Mul", o, bend(shown))
    parts = [
        ctx.op("Mul", c, slope(i)),
        ctx.op("Mul", shown, slope(o)),
        ctx.op("Mul", before, slope(f)),
        ctx.op("Mul", i, bend(c)),
    ]
    return lstm_back(ctx, layer, above, to_cell, ctx.op("Concat", *parts, axis=3), f)


def cells_of(
    ctx: Context, layer: Layer, c0: ir.Value, forget: ir.Value, written: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return an LSTM's cells before each step and after it."""
    _, (cells,) = recursion(ctx, layer, _next_cell, [c0], [forget, written], [], reverse=False)
    return delayed(ctx, ctx.op("Unsqueeze", c0, ctx.ints([0])), cells), cells


def lstm_back(
    ctx: Context, layer: Layer, above: _Values, to_cell: ir.Value, to_gates: ir.Value, forget: ir.Value
) -> list[ir.Value]:
    """Go back through an LSTM whose shares are known.

    Args:
        ctx: emits.
        layer: the layer.
        above: cotangents of every hidden state, the last one and the last cell.
        to_cell: what the cell gets of the hidden state's cotangent.
        to_gates: what the gates' sums get: i, f and c of the cell's, o of the hidden state's.
        forget: what the cell before gets of the cell's.
    """

    def step(
        inner: Context, states: _Values, inputs: _Values, weights: Sequence[Times]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        dh, dc = states
        given, cell_share, gate_share, forget = inputs
        dc = inner.op("Add", dc, inner.op("Mul", dh, cell_share))
        dz = inner.op("Mul", inner.op("Concat", dc, dh, dc, dc, axis=-1), gate_share)
        return [weights[0](dz, given), inner.op("Mul", dc, forget)], [dz]

    last, given = ahead(ctx, layer, above)
    inputs = [given, to_cell, to_gates, forget]
    states, (dz,) = recursion(ctx, layer, step, [last, above[2]], inputs, [layer.r], reverse=True)
    return [to_input(ctx, layer, dz, layer.w), *states]


def _next_cell(
    ctx: Context, states: _Values, inputs: _Values, weights: Sequence[Times]
) -> tuple[list[ir.Value], list[ir.Value]]:
    cell = ctx.op("Add", ctx.op("Mul", inputs[0], states[0]), inputs[1])
    return [cell], [cell]


def _gru_layer(ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: _Values) -> list[ir.Value]:
    one = ctx.scalar(1.0, layer.x)
    (xz, xr, xn), (hz, hr, hn) = (gates_of(ctx, v, layer) for v in products(ctx, layer))
    z, r = ctx.op("Sigmoid", ctx.op("Add", xz, hz)), ctx.op("Sigmoid", ctx.op("Add", xr, hr))
    after = bool(ctx.attribute(node, "linear_before_reset", 0))
    n = ctx.op("Tanh", ctx.op("Add", xn, ctx.op("Mul", r, hn) if after else reset_product(ctx, layer, r)))
    keep = ctx.op("Sub", one, z)
    to_z = ctx.op("Mul", ctx.op("Sub", layer.previous, n), ctx.op("Mul", z, keep))
    to_n = ctx.op("Mul", keep, ctx.op("Sub", one, ctx.op("Mul", n, n)))
    slope = ctx.op("Mul", r, ctx.op("Sub", one, r))
    if after:
        to_r = ctx.op("Mul", ctx.op("Mul", to_n, hn), slope)
        return gru_back(ctx, layer, above, (to_z, to_r, to_n), z, r)
    return gru_reset_first_back(ctx, layer, above, (to_z, ctx.op("Mul", layer.previous, slope), to_n), z, r)


def gru_back(
    ctx: Context,
    layer: Layer,
    above: _Values,
    shares: tuple[ir.Value, ir.Value, ir.Value],
    z: ir.Value,
    r: ir.Value,
) -> list[ir.Value]:
    """Go back through a GRU that resets after the product, whose shares of z, r and the candidate are known."""
    to_z, to_r, to_n = shares
    to_h = ctx.op("Concat", to_z, to_r, ctx.op("Mul", to_n, r), axis=3)

    def step(
        inner: Context, states: _Values, inputs: _Values, weights: Sequence[Times]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        (dh,), (given, share, update) = states, inputs
        gates = inner.op("Mul", inner.op("Concat", dh, dh, dh, axis=-1), share)
        return [weights[0](gates, inner.op("Add", given, inner.op("Mul", dh, update)))], [dh]

    last, given = ahead(ctx, layer, above)
    states, (dh,) = recursion(ctx, layer, step, [last], [given, to_h, z], [layer.r], reverse=True)
    dz = ctx.op("Mul", ctx.op("Concat", dh, dh, dh, axis=3), ctx.op("Concat", *shares, axis=3))
    return [to_input(ctx, layer, dz, layer.w), *states]


def reset_product(ctx: Context, layer: Layer, r: ir.Value) -> ir.Value:
    """Return ``(r·h')·Rᵀ + b`` of the candidate."""
    bias = None if layer.biases is None else rows_of(ctx, layer, layer.biases[1], 2)
    kept, rows = ctx.op("Mul", r, layer.previous), rows_of(ctx, layer, layer.r, 2)
    return product(ctx, layer, kept, rows, bias, layer.hidden)


def rows_of(ctx: Context, layer: Layer, weights: ir.Value, gate: int) -> ir.Value:
    """Return the weights, or the biases, of one gate: ``(directions, hidden, …)``."""
    begin, end = ctx.ints([gate * layer.hidden]), ctx.ints([(gate + 1) * layer.hidden])
    return ctx.op("Slice", weights, begin, end, ctx.ints([1]))


def gru_reset_first_back(
    ctx: Context,
    layer: Layer,
    above: _Values,
    shares: tuple[ir.Value, ir.Value, ir.Value],
    z: ir.Value,
    r: ir.Value,
) -> list[ir.Value]:
    """Go back through a GRU that resets before the product, whose shares of z, r and the candidate are known."""
    to_z, to_r, to_n = shares
    sizes = ctx.ints([2 * layer.hidden, layer.hidden])
    gate_rows, state_rows = ctx.ops("Split", layer.r, sizes, outputs=2, axis=1)

    def step(
        inner: Context, states: _Values, inputs: _Values, weights: Sequence[Times]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        given, share_z, share_n, share_r, update, reset = inputs
        of_gates, of_state = weights
        (dh,) = states
        dn = inner.op("Mul", dh, share_n)
        through = of_state(dn, None)
        dzr = inner.op("Concat", inner.op("Mul", dh, share_z), inner.op("Mul", through, share_r), axis=-1)
        back = of_gates(dzr, inner.op("Add", given, inner.op("Mul", dh, update)))
        return [inner.op("Add", back, inner.op("Mul", through, reset))], [inner.op("Concat", dzr, dn, axis=-1)]

    last, given = ahead(ctx, layer, above)
    inputs, rows = [given, to_z, to_n, to_r, z, r], [gate_rows, state_rows]
    states, (dz,) = recursion(ctx, layer, step, [last], inputs, rows, reverse=True)
    return [to_input(ctx, layer, dz, layer.w), *states]


def _rnn_layer(ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: _Values) -> list[ir.Value]:
    given = ctx.attribute(node, "activations", None) or ["Tanh"]
    if given[0] == "Relu":
        share = ctx.op("Sign", layer.h)
    else:
        share = ctx.op("Sub", ctx.scalar(1.0, layer.x), ctx.op("Mul", layer.h, layer.h))
    return rnn_back(ctx, layer, above, share)


def rnn_back(ctx: Context, layer: Layer, above: _Values, share: ir.Value) -> list[ir.Value]:
    """Go back through an RNN whose share of the sum in each state is known."""

    def step(
        inner: Context, states: _Values, inputs: _Values, weights: Sequence[Times]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        dz = inner.op("Mul", states[0], inputs[1])
        return [weights[0](dz, inputs[0])], [dz]

    last, given = ahead(ctx, layer, above)
    states, (dz,) = recursion(ctx, layer, step, [last], [given, share], [layer.r], reverse=True)
    return [to_input(ctx, layer, dz, layer.w), *states]


RULES: dict[str, Rule] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
