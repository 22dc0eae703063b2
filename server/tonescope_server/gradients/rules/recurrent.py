"""LSTM, GRU and RNN. The forward pass stays native; only a short recursion runs step by step, backwards.

All gates are computed again for every step at once, in one MatMul from the hidden states that the native operator
returned. What is left of the recursion is linear in the cotangent, with coefficients that are known beforehand. The
gradient is taken by the sequence and by the initial states; weights are constants of an inference graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required

Step = Callable[[Context, Sequence[ir.Value], Sequence[ir.Value]], tuple[list[ir.Value], list[ir.Value]]]
"""``step(ctx, states, inputs)`` → (new states, outputs): one step of a recursion."""

# So many steps, over all recursions of a graph, are written out; the rest are Scans. Written out, a two-layer
# bidirectional LSTM over 50 steps took 2.0 ms against 4.6 ms, but ONNX Runtime loads a graph in time quadratic in its
# nodes: 17 s against 0.14 s.
MOST_UNROLLED = 128


@dataclass(frozen=True)
class Layer:
    """One direction of one recurrent node, its sequences in the order in which they were read.

    Attributes:
        x: ``(steps, batch, inputs)``.
        w: ``(gates·hidden, inputs)``.
        r: ``(gates·hidden, hidden)``.
        input_bias: ``(gates·hidden)``; None for none.
        hidden_bias: likewise.
        h: hidden states, ``(steps, batch, hidden)``.
        previous: the hidden state before each step, of ``h``'s shape.
        steps: how many; None where it is known at run time only.
        hidden: the size of a state.
        direction: which of the node's directions.
        reverse: whether it reads the sequence from the end.
    """

    x: ir.Value
    w: ir.Value
    r: ir.Value
    input_bias: ir.Value | None
    hidden_bias: ir.Value | None
    h: ir.Value
    previous: ir.Value
    steps: int | None
    hidden: int
    direction: int
    reverse: bool


def lstm(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Gates i, o, f, c: ``c = f·c' + i·c̃``, ``h = o·tanh c``."""
    refuse_lstm(ctx, node)
    return by_direction(ctx, node, cotangents, _lstm_layer)


def gru(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Gates z, r, h: ``h = (1 − z)·h̃ + z·h'``, the reset before or after the product."""
    refuse_gru(ctx, node)
    return by_direction(ctx, node, cotangents, _gru_layer)


def rnn(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """``h = tanh(…)``, or ``relu(…)``."""
    refuse_rnn(ctx, node)
    return by_direction(ctx, node, cotangents, _rnn_layer)


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


LayerRule = Callable[[Context, ir.Node, Layer, "ir.Value | None", Sequence[ir.Value]], list[ir.Value]]
"""(ctx, node, layer, initial cell, [cotangents: h of every step, last h, last c]) → [x, initial h, initial c]."""


def by_direction(ctx: Context, node: ir.Node, cotangents: Cotangents, rule: LayerRule) -> Sequence[ir.Value | None]:
    """Apply the rule of one direction to each that the node has; return the cotangents of the node's inputs."""
    direction = ctx.attribute(node, "direction", "forward")
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    is_lstm = node.op_type == "LSTM"
    found: list[list[ir.Value]] = []
    for d, reverse in enumerate(backwards):
        layer = layer_of(ctx, node, d, reverse)
        cell = initial_state(ctx, node, 6, d, layer.hidden) if is_lstm else None
        above = [_cotangent(ctx, node, cotangents, k, d, reverse, layer) for k in range(3 if is_lstm else 2)]
        parts = rule(ctx, node, layer, cell, above)
        found.append([_reversed(ctx, parts[0]) if reverse else parts[0], *parts[1:]])
    by_x = found[0][0] if len(found) == 1 else ctx.op("Add", found[0][0], found[1][0])
    result: list[ir.Value | None] = [by_x, None, None, None, None]
    for k in range(1, len(found[0])):
        each = [ctx.op("Unsqueeze", parts[k], ctx.ints([0])) for parts in found]
        result.append(each[0] if len(each) == 1 else ctx.op("Concat", *each, axis=0))
    return result


def layer_of(ctx: Context, node: ir.Node, d: int, reverse: bool) -> Layer:
    """Return one direction of a node, and the states that it went through."""
    x = required(node.inputs[0])
    steps, hidden = ctx.dims(x)[0], int(ctx.attribute(node, "hidden_size"))
    if not node.outputs[0].name:
        node.outputs[0].name = f"{node.name}:states"  # an unused first output has no name; now it is used
    y = _direction_of(ctx, node.outputs[0], d, 1)
    w, r = (_direction_of(ctx, required(node.inputs[k]), d, 0) for k in (1, 2))
    biases: list[ir.Value | None] = [None, None]
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        both = ctx.ops("Split", _direction_of(ctx, required(node.inputs[3]), d, 0), outputs=2, axis=0, num_outputs=2)
        biases = list(both)
    if reverse:
        x, y = _reversed(ctx, x), _reversed(ctx, y)
    h0 = initial_state(ctx, node, 5, d, hidden)
    earlier = ctx.op("Slice", y, ctx.ints([0]), ctx.ints([-1]), ctx.ints([0]))
    previous = ctx.op("Concat", ctx.op("Unsqueeze", h0, ctx.ints([0])), earlier, axis=0)
    known = steps if isinstance(steps, int) else None
    return Layer(x, w, r, biases[0], biases[1], y, previous, known, hidden, d, reverse)


def _direction_of(ctx: Context, value: ir.Value, d: int, axis: int) -> ir.Value:
    return ctx.op("Gather", value, ctx.constant(np.int64(d)), axis=axis)


def _reversed(ctx: Context, sequence: ir.Value) -> ir.Value:
    turned = ctx.op("Slice", sequence, ctx.ints([-1]), ctx.ints([-(2**31)]), ctx.ints([0]), ctx.ints([-1]))
    return ctx.typed(turned, sequence)


def initial_state(ctx: Context, node: ir.Node, index: int, d: int, hidden: int) -> ir.Value:
    """Return an initial state, ``(batch, hidden)``: zeros where the node has none."""
    given = node.inputs[index] if len(node.inputs) > index else None
    if given is not None:
        return _direction_of(ctx, given, d, 0)
    return _blank(ctx, node, hidden)


def _blank(ctx: Context, node: ir.Node, hidden: int) -> ir.Value:
    batch = ctx.op("Shape", required(node.inputs[0]), start=1, end=2)
    shape = ctx.op("Concat", batch, ctx.ints([hidden]), axis=0)
    return ctx.op("Expand", ctx.scalar(0.0, required(node.inputs[0])), shape)


def _cotangent(
    ctx: Context, node: ir.Node, cotangents: Cotangents, k: int, d: int, reverse: bool, layer: Layer
) -> ir.Value:
    """Return the cotangent of every hidden state (k = 0), of the last one (1) or of the last cell (2)."""
    given = cotangents[k] if len(cotangents) > k else None
    if k:
        return _blank(ctx, node, layer.hidden) if given is None else _direction_of(ctx, given, d, 0)
    if given is None:
        return ctx.op("Mul", layer.h, ctx.scalar(0.0, required(node.inputs[0])))
    own = _direction_of(ctx, given, d, 1)
    return _reversed(ctx, own) if reverse else own


def products(ctx: Context, layer: Layer) -> tuple[ir.Value, ir.Value]:
    """Return ``x·Wᵀ + b_w`` and ``h'·Rᵀ + b_r`` of all gates and steps."""
    by_x = ctx.op("MatMul", layer.x, ctx.op("Transpose", layer.w, perm=[1, 0]))
    by_h = ctx.op("MatMul", layer.previous, ctx.op("Transpose", layer.r, perm=[1, 0]))
    if layer.input_bias is not None:
        by_x = ctx.op("Add", by_x, layer.input_bias)
    if layer.hidden_bias is not None:
        by_h = ctx.op("Add", by_h, layer.hidden_bias)
    return by_x, by_h


def gates_of(ctx: Context, value: ir.Value, count: int, hidden: int) -> Sequence[ir.Value]:
    """Return the sums of each gate."""
    if count == 1:
        return [value]
    return ctx.ops("Split", value, ctx.ints([hidden] * count), outputs=count, axis=2)


def _lstm_layer(
    ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: Sequence[ir.Value]
) -> list[ir.Value]:
    i, o, f, c = gates_of(ctx, ctx.op("Add", *products(ctx, layer)), 4, layer.hidden)
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
    return lstm_back(ctx, layer, above, to_cell, ctx.op("Concat", *parts, axis=2), f)


def cells_of(
    ctx: Context, layer: Layer, c0: ir.Value, forget: ir.Value, written: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return an LSTM's cells before each step and after it."""
    _, (cells,) = recursion(ctx, _next_cell, [c0], [forget, written], layer.steps, reverse=False)
    first = ctx.op("Unsqueeze", c0, ctx.ints([0]))
    earlier = ctx.op("Slice", cells, ctx.ints([0]), ctx.ints([-1]), ctx.ints([0]))
    return ctx.op("Concat", first, earlier, axis=0), cells


def lstm_back(
    ctx: Context, layer: Layer, above: Sequence[ir.Value], to_cell: ir.Value, to_gates: ir.Value, forget: ir.Value
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
    r = layer.r

    def step(
        inner: Context, states: Sequence[ir.Value], inputs: Sequence[ir.Value]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        dh, dc = states
        given, cell_share, gate_share, forget = inputs
        dh = inner.op("Add", given, dh)
        dc = inner.op("Add", dc, inner.op("Mul", dh, cell_share))
        dz = inner.op("Mul", inner.op("Concat", dc, dh, dc, dc, axis=-1), gate_share)
        return [inner.op("MatMul", dz, r), inner.op("Mul", dc, forget)], [dz]

    states, (dz,) = recursion(
        ctx, step, [above[1], above[2]], [above[0], to_cell, to_gates, forget], layer.steps, reverse=True
    )
    return [ctx.op("MatMul", dz, layer.w), *states]


def _next_cell(
    ctx: Context, states: Sequence[ir.Value], inputs: Sequence[ir.Value]
) -> tuple[list[ir.Value], list[ir.Value]]:
    cell = ctx.op("Add", ctx.op("Mul", inputs[0], states[0]), inputs[1])
    return [cell], [cell]


def _gru_layer(
    ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: Sequence[ir.Value]
) -> list[ir.Value]:
    if not ctx.attribute(node, "linear_before_reset", 0):
        return _gru_reset_first(ctx, layer, above)
    one = ctx.scalar(1.0, layer.x)
    by_x, by_h = products(ctx, layer)
    (xz, xr, xn), (hz, hr, hn) = (gates_of(ctx, v, 3, layer.hidden) for v in (by_x, by_h))
    z, r = ctx.op("Sigmoid", ctx.op("Add", xz, hz)), ctx.op("Sigmoid", ctx.op("Add", xr, hr))
    n = ctx.op("Tanh", ctx.op("Add", xn, ctx.op("Mul", r, hn)))
    to_z, to_n = _gru_shares(ctx, layer, z, n, one)
    to_r = ctx.op("Mul", ctx.op("Mul", to_n, hn), ctx.op("Mul", r, ctx.op("Sub", one, r)))
    return gru_back(ctx, layer, above, (to_z, to_r, to_n), z, r)


def gru_back(
    ctx: Context,
    layer: Layer,
    above: Sequence[ir.Value],
    shares: tuple[ir.Value, ir.Value, ir.Value],
    z: ir.Value,
    r: ir.Value,
) -> list[ir.Value]:
    """Go back through a GRU that resets after the product, whose shares of z, r and the candidate are known."""
    to_z, to_r, to_n = shares
    to_h = ctx.op("Concat", to_z, to_r, ctx.op("Mul", to_n, r), axis=2)
    recurrent = layer.r

    def step(
        inner: Context, states: Sequence[ir.Value], inputs: Sequence[ir.Value]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        dh = inner.op("Add", inputs[0], states[0])
        gates = inner.op("Mul", inner.op("Concat", dh, dh, dh, axis=-1), inputs[1])
        back = inner.op("Add", inner.op("Mul", dh, inputs[2]), inner.op("MatMul", gates, recurrent))
        return [back], [dh]

    states, (dh,) = recursion(ctx, step, [above[1]], [above[0], to_h, z], layer.steps, reverse=True)
    dz = ctx.op("Mul", ctx.op("Concat", dh, dh, dh, axis=2), ctx.op("Concat", to_z, to_r, to_n, axis=2))
    return [ctx.op("MatMul", dz, layer.w), *states]


def _gru_reset_first(ctx: Context, layer: Layer, above: Sequence[ir.Value]) -> list[ir.Value]:
    """The form in which the reset gate multiplies the hidden state before the product."""
    one, hidden = ctx.scalar(1.0, layer.x), layer.hidden
    by_x, by_h = products(ctx, layer)
    (xz, xr, xn), (hz, hr, _) = (gates_of(ctx, v, 3, hidden) for v in (by_x, by_h))
    z, r = ctx.op("Sigmoid", ctx.op("Add", xz, hz)), ctx.op("Sigmoid", ctx.op("Add", xr, hr))
    n = ctx.op("Tanh", ctx.op("Add", xn, reset_product(ctx, layer, r)))
    to_z, to_n = _gru_shares(ctx, layer, z, n, one)
    to_r = ctx.op("Mul", layer.previous, ctx.op("Mul", r, ctx.op("Sub", one, r)))
    return gru_reset_first_back(ctx, layer, above, (to_z, to_r, to_n), z, r)


def reset_product(ctx: Context, layer: Layer, r: ir.Value) -> ir.Value:
    """Return ``(r·h')·Rᵀ + b`` of the candidate."""
    hidden = layer.hidden
    rows = ctx.op("Slice", layer.r, ctx.ints([2 * hidden]), ctx.ints([2**31]), ctx.ints([0]))
    kept = ctx.op("MatMul", ctx.op("Mul", r, layer.previous), ctx.op("Transpose", rows, perm=[1, 0]))
    if layer.hidden_bias is None:
        return kept
    bias = ctx.op("Slice", layer.hidden_bias, ctx.ints([2 * hidden]), ctx.ints([2**31]), ctx.ints([0]))
    return ctx.op("Add", kept, bias)


def gru_reset_first_back(
    ctx: Context,
    layer: Layer,
    above: Sequence[ir.Value],
    shares: tuple[ir.Value, ir.Value, ir.Value],
    z: ir.Value,
    r: ir.Value,
) -> list[ir.Value]:
    """Go back through a GRU that resets before the product, whose shares of z, r and the candidate are known."""
    to_z, to_r, to_n = shares
    sizes = ctx.ints([2 * layer.hidden, layer.hidden])
    gate_rows, state_rows = ctx.ops("Split", layer.r, sizes, outputs=2, axis=0)

    def step(
        inner: Context, states: Sequence[ir.Value], inputs: Sequence[ir.Value]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        given, share_z, share_n, share_r, update, reset = inputs
        dh = inner.op("Add", given, states[0])
        dn = inner.op("Mul", dh, share_n)
        through = inner.op("MatMul", dn, state_rows)
        dzr = inner.op("Concat", inner.op("Mul", dh, share_z), inner.op("Mul", through, share_r), axis=-1)
        back = inner.op("Add", inner.op("Mul", dh, update), inner.op("MatMul", dzr, gate_rows))
        return [inner.op("Add", back, inner.op("Mul", through, reset))], [inner.op("Concat", dzr, dn, axis=-1)]

    states, (dz,) = recursion(ctx, step, [above[1]], [above[0], to_z, to_n, to_r, z, r], layer.steps, reverse=True)
    return [ctx.op("MatMul", dz, layer.w), *states]


def _gru_shares(ctx: Context, layer: Layer, z: ir.Value, n: ir.Value, one: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return what the update gate and the candidate get of the hidden state's cotangent."""
    keep = ctx.op("Sub", one, z)
    to_z = ctx.op("Mul", ctx.op("Sub", layer.previous, n), ctx.op("Mul", z, keep))
    return to_z, ctx.op("Mul", keep, ctx.op("Sub", one, ctx.op("Mul", n, n)))


def _rnn_layer(
    ctx: Context, node: ir.Node, layer: Layer, cell: ir.Value | None, above: Sequence[ir.Value]
) -> list[ir.Value]:
    given = ctx.attribute(node, "activations", None) or ["Tanh"]
    if given[0] == "Relu":
        share = ctx.op("Sign", layer.h)
    else:
        share = ctx.op("Sub", ctx.scalar(1.0, layer.x), ctx.op("Mul", layer.h, layer.h))
    return rnn_back(ctx, layer, above, share)


def rnn_back(ctx: Context, layer: Layer, above: Sequence[ir.Value], share: ir.Value) -> list[ir.Value]:
    """Go back through an RNN whose share of the sum in each state is known."""
    r = layer.r

    def step(
        inner: Context, states: Sequence[ir.Value], inputs: Sequence[ir.Value]
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        dz = inner.op("Mul", inner.op("Add", inputs[0], states[0]), inputs[1])
        return [inner.op("MatMul", dz, r)], [dz]

    states, (dz,) = recursion(ctx, step, [above[1]], [above[0], share], layer.steps, reverse=True)
    return [ctx.op("MatMul", dz, layer.w), *states]


def recursion(
    ctx: Context,
    step: Step,
    states: Sequence[ir.Value],
    inputs: Sequence[ir.Value],
    steps: int | None,
    *,
    reverse: bool,
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Run ``step`` over the first axis of ``inputs``; return the last states and the outputs, stacked.

    Written out where the number of steps is known and small, else a Scan.
    """
    if steps is not None and ctx.spend("unrolled steps", steps, MOST_UNROLLED):
        return _unrolled(ctx, step, list(states), inputs, steps, reverse)
    return _scanned(ctx, step, states, inputs, reverse)


def _unrolled(
    ctx: Context, step: Step, states: list[ir.Value], inputs: Sequence[ir.Value], steps: int, reverse: bool
) -> tuple[list[ir.Value], list[ir.Value]]:
    each = [ctx.ops("Split", v, outputs=steps, axis=0, num_outputs=steps) for v in inputs]
    rows: list[list[ir.Value]] = []
    for t in reversed(range(steps)) if reverse else range(steps):
        # Parts keep their leading axis of one: it broadcasts, and needs no Squeeze at every step.
        states, outputs = step(ctx, states, [parts[t] for parts in each])
        rows.append(outputs)
    if reverse:
        rows.reverse()
    stacked = [ctx.op("Concat", *(row[k] for row in rows), axis=0) for k in range(len(rows[0]))]
    return [ctx.op("Squeeze", s, ctx.ints([0])) for s in states], stacked


def _scanned(
    ctx: Context, step: Step, states: Sequence[ir.Value], inputs: Sequence[ir.Value], reverse: bool
) -> tuple[list[ir.Value], list[ir.Value]]:
    number = ctx.count("scan")
    kind = states[0].type or ir.TensorType(ir.DataType.FLOAT)
    inner_states, inner_inputs = (
        [ir.Value(name=f"scan{number}_{what}_{k}", type=kind) for k in range(n)]
        for what, n in (("state", len(states)), ("input", len(inputs)))
    )
    body = ir.Graph(
        [*inner_states, *inner_inputs], [], nodes=[], opset_imports=ctx.graph.opset_imports, name="scan_body"
    )
    inner = Context(body)
    new_states, outputs = step(inner, inner_states, inner_inputs)
    # A value can be a graph's output only once.
    outputs = [inner.op("Identity", v) if v in new_states else v for v in outputs]
    body.outputs.extend([*new_states, *outputs])
    for k, value in enumerate(v for node in body for v in node.outputs):
        value.name = f"scan{number}_value_{k}"
        value.type = kind
    direction = [int(reverse)]
    found = ctx.ops(
        "Scan", *states, *inputs, outputs=len(new_states) + len(outputs), body=body, num_scan_inputs=len(inputs),
        scan_input_directions=direction * len(inputs), scan_output_directions=direction * len(outputs),
    )  # fmt: skip
    return list(found[: len(new_states)]), list(found[len(new_states) :])


RULES: dict[str, Rule] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
