"""A recurrent node as its rules see it: weights, states, and the products that all steps have in common.

Both directions go through one recursion, side by side: whatever has a step axis here is
``(steps, directions, batch, …)``, each direction in the order in which it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents
from tonescope_server.gradients.rules.elementwise import required

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Layer:
    """One recurrent node.

    Attributes:
        x: what it reads, ``(steps, batch, inputs)``.
        w: ``(directions, gates·hidden, inputs)``.
        r: ``(directions, gates·hidden, hidden)``.
        biases: of the input and of the hidden state, ``(directions, gates·hidden)`` each; None for none.
        h: hidden states, ``(steps, directions, batch, hidden)``.
        previous: the hidden state before each step, of ``h``'s shape.
        steps: how many; None where it is known at run time only.
        hidden: the size of a state.
        gates: how many.
        backwards: of each direction, whether it reads from the end.
    """

    x: ir.Value
    w: ir.Value
    r: ir.Value
    biases: tuple[ir.Value, ir.Value] | None
    h: ir.Value
    previous: ir.Value
    steps: int | None
    hidden: int
    gates: int
    backwards: tuple[bool, ...]

    @property
    def directions(self) -> int:
        """How many."""
        return len(self.backwards)


LayerRule = Callable[[Context, ir.Node, Layer, "ir.Value | None", Sequence[ir.Value]], list[ir.Value]]
"""(ctx, node, layer, initial cell, [cotangents: h of every step, last h, last c]) → [x, initial h, initial c]."""


def through_layer(ctx: Context, node: ir.Node, cotangents: Cotangents, rule: LayerRule) -> Sequence[ir.Value | None]:
    """Apply a rule to the layer that a node is; return the cotangents of the node's inputs."""
    layer = layer_of(ctx, node)
    is_lstm = node.op_type == "LSTM"
    cell = initial_state(ctx, node, 6) if is_lstm else None
    above = [_cotangent(ctx, node, cotangents, k, layer) for k in range(3 if is_lstm else 2)]
    by_x, *by_states = rule(ctx, node, layer, cell, above)
    return [by_x, None, None, None, None, *by_states]


def layer_of(ctx: Context, node: ir.Node) -> Layer:
    """Return a node's weights, and the states that it went through."""
    x, w, r = (required(v) for v in node.inputs[:3])
    direction = ctx.attribute(node, "direction", "forward")
    backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    if not node.outputs[0].name:
        node.outputs[0].name = f"{node.name}:states"  # an unused first output has no name; now it is used
    given = node.inputs[3] if len(node.inputs) > 3 else None
    biases = None
    if given is not None:
        input_bias, hidden_bias = ctx.ops("Split", given, outputs=2, axis=1, num_outputs=2)
        biases = (input_bias, hidden_bias)
    h = _in_order(ctx, node.outputs[0], backwards)
    first = ctx.op("Unsqueeze", initial_state(ctx, node, 5), ctx.ints([0]))
    steps = ctx.dims(x)[0]
    return Layer(
        x, w, r, biases, h, delayed(ctx, first, h), steps if isinstance(steps, int) else None,
        int(ctx.attribute(node, "hidden_size")), _GATES[node.op_type], backwards,
    )  # fmt: skip


def delayed(ctx: Context, first: ir.Value, sequence: ir.Value) -> ir.Value:
    """Return what was there before each step: ``first``, then the sequence without its last step."""
    earlier = ctx.op("Slice", sequence, ctx.ints([0]), ctx.ints([-1]), ctx.ints([0]))
    return ctx.op("Concat", first, earlier, axis=0)


def initial_state(ctx: Context, node: ir.Node, index: int) -> ir.Value:
    """Return an initial state, ``(directions, batch, hidden)``: zeros where the node has none."""
    given = node.inputs[index] if len(node.inputs) > index else None
    return _blank(ctx, node) if given is None else given


def _blank(ctx: Context, node: ir.Node) -> ir.Value:
    x = required(node.inputs[0])
    directions = 2 if ctx.attribute(node, "direction", "forward") == "bidirectional" else 1
    batch, hidden = ctx.op("Shape", x, start=1, end=2), ctx.ints([int(ctx.attribute(node, "hidden_size"))])
    return ctx.op("Expand", ctx.scalar(0.0, x), ctx.op("Concat", ctx.ints([directions]), batch, hidden, axis=0))


def _cotangent(ctx: Context, node: ir.Node, cotangents: Cotangents, k: int, layer: Layer) -> ir.Value:
    """Return the cotangent of every hidden state (k = 0), of the last one (1) or of the last cell (2)."""
    given = cotangents[k] if len(cotangents) > k else None
    if k:
        return _blank(ctx, node) if given is None else given
    if given is None:
        return ctx.op("Mul", layer.h, ctx.scalar(0.0, layer.x))
    return _in_order(ctx, given, layer.backwards)


def ahead(ctx: Context, layer: Layer, above: Sequence[ir.Value]) -> tuple[ir.Value, ir.Value]:
    """Return what the last hidden state is given, and at each step what the state before it is given from above.

    So the product that goes back to the state before can add it: one node fewer at every step.
    """
    last = ctx.op("Add", ctx.op("Gather", above[0], ctx.constant(np.int64(-1)), axis=0), above[1])
    if ctx.portable:  # not every runtime has pads below zero
        earlier = ctx.op("Slice", above[0], ctx.ints([0]), ctx.ints([-1]), ctx.ints([0]))
        return last, ctx.op("Pad", earlier, ctx.ints([1, 0, 0, 0, 0, 0, 0, 0]))
    return last, ctx.op("Pad", above[0], ctx.ints([1, 0, 0, 0, -1, 0, 0, 0]))


def turned(ctx: Context, sequence: ir.Value) -> ir.Value:
    """Return a sequence from its end."""
    return ctx.op("Slice", sequence, ctx.ints([-1]), ctx.ints([-(2**31)]), ctx.ints([0]), ctx.ints([-1]))


def _in_order(ctx: Context, sequence: ir.Value, backwards: Sequence[bool]) -> ir.Value:
    """Turn the directions that read from the end; which is also how to turn them back.

    Shapes: (steps, directions, batch, …) → the same.
    """
    if not any(backwards):
        return sequence
    if all(backwards):
        return turned(ctx, sequence)
    first, second = ctx.ops("Split", sequence, outputs=2, axis=1, num_outputs=2)
    return ctx.op("Concat", first, turned(ctx, second), axis=1)


def products(ctx: Context, layer: Layer) -> tuple[ir.Value, ir.Value]:
    """Return ``x·Wᵀ + b_w`` and ``h'·Rᵀ + b_r`` of all gates and steps."""
    by_x, by_h = (None, None) if layer.biases is None else layer.biases
    width = layer.gates * layer.hidden
    of_x = _affine(ctx, _inputs(ctx, layer), _by_direction(ctx, layer, layer.w), _by_direction(ctx, layer, by_x))
    of_h = _affine(
        ctx, _rows(ctx, layer, layer.previous), _by_direction(ctx, layer, layer.r), _by_direction(ctx, layer, by_h)
    )
    return _joined(ctx, layer, of_x, width), _joined(ctx, layer, of_h, width)


def sums(ctx: Context, layer: Layer) -> ir.Value:
    """Return ``x·Wᵀ + h'·Rᵀ + b`` of all gates and steps: two Gemms for each direction, and nothing to add."""
    bias = None if layer.biases is None else ctx.op("Add", *layer.biases)
    of_x = _affine(ctx, _inputs(ctx, layer), _by_direction(ctx, layer, layer.w), _by_direction(ctx, layer, bias))
    whole = _affine(ctx, _rows(ctx, layer, layer.previous), _by_direction(ctx, layer, layer.r), of_x)
    return _joined(ctx, layer, whole, layer.gates * layer.hidden)


def product(
    ctx: Context, layer: Layer, value: ir.Value, weights: ir.Value, bias: ir.Value | None, width: int
) -> ir.Value:
    """Return ``value·weightsᵀ + bias``, each direction with its own.

    Shapes: ``value`` (steps, directions, batch, n), ``weights`` (directions, width, n), ``bias`` (directions, width).
    """
    found = _affine(ctx, _rows(ctx, layer, value), _by_direction(ctx, layer, weights), _by_direction(ctx, layer, bias))
    return _joined(ctx, layer, found, width)


def to_input(ctx: Context, layer: Layer, value: ir.Value, weights: ir.Value) -> ir.Value:
    """Return ``value·weights``, summed over directions, in the order of the input.

    Shapes: ``value`` (steps, directions, batch, m), ``weights`` (directions, m, inputs) → (steps, batch, inputs).
    """
    total: ir.Value | None = None
    for part, own, backwards in zip(
        _directions(ctx, layer, value), _by_direction(ctx, layer, weights), layer.backwards, strict=True
    ):
        share = ctx.op("MatMul", part, own)
        share = turned(ctx, share) if backwards else share
        total = share if total is None else ctx.op("Add", total, share)
    return ctx.op("Squeeze", total, ctx.ints([1]))


def _directions(ctx: Context, layer: Layer, value: ir.Value) -> Sequence[ir.Value]:
    """Take directions apart, (steps, directions, batch, n) → (steps, 1, batch, n) each."""
    if layer.directions == 1:
        return [value]
    return ctx.ops("Split", value, outputs=layer.directions, axis=1, num_outputs=layer.directions)


def _rows(ctx: Context, layer: Layer, value: ir.Value) -> list[ir.Value]:
    """Take directions apart, (steps, directions, batch, n) → (steps·batch, n) each.

    One product of all steps for each direction: in a product of stacks of matrices every step would be one by itself.
    """
    return [ctx.op("Flatten", part, axis=3) for part in _directions(ctx, layer, value)]


def _inputs(ctx: Context, layer: Layer) -> list[ir.Value]:
    """Return what each direction reads, (steps·batch, inputs)."""
    return [ctx.op("Flatten", turned(ctx, layer.x) if b else layer.x, axis=2) for b in layer.backwards]


def _by_direction(ctx: Context, layer: Layer, weights: ir.Value | None) -> list[ir.Value | None]:
    """Take the weights of directions apart: ONNX Runtime does it once, at load."""
    if weights is None:
        return [None] * layer.directions
    numbers = [ctx.constant(np.int64(d)) for d in range(layer.directions)]
    return [ctx.op("Gather", weights, number, axis=0) for number in numbers]


def _affine(
    ctx: Context, values: Sequence[ir.Value], weights: Sequence[ir.Value | None], plus: Sequence[ir.Value | None]
) -> list[ir.Value]:
    return [
        ctx.op("Gemm", value, own, transB=1) if more is None else ctx.op("Gemm", value, own, more, transB=1)
        for value, own, more in zip(values, weights, plus, strict=True)
    ]


def _joined(ctx: Context, layer: Layer, rows: Sequence[ir.Value], width: int) -> ir.Value:
    """Put directions together, (steps·batch, width) each → (steps, directions, batch, width)."""
    if layer.steps is None:
        steps, batch = (ctx.op("Shape", layer.x, start=axis, end=axis + 1) for axis in (0, 1))
        shape = ctx.op("Concat", steps, ctx.ints([1]), batch, ctx.ints([width]), axis=0)
    else:
        shape = ctx.ints([layer.steps, 1, -1, width])
    apart = [ctx.op("Reshape", value, shape) for value in rows]
    return apart[0] if len(apart) == 1 else ctx.op("Concat", *apart, axis=1)


def gates_of(ctx: Context, value: ir.Value, layer: Layer) -> Sequence[ir.Value]:
    """Return what is of each gate."""
    if layer.gates == 1:
        return [value]
    return ctx.ops("Split", value, outputs=layer.gates, axis=3, num_outputs=layer.gates)
