"""What methods that evaluate at many points per window have in common, beyond ``Tape.evaluate_path``."""

from __future__ import annotations

import onnx_ir as ir

from tonescope_server.gradients.tape import Tape
from tonescope_server.gradients.variables import Evaluation, Var

# How rules turn constant weights around, for ONNX Runtime to fold at load.
_ARRANGING = frozenset({"Transpose", "Reshape", "Slice", "Gather", "Squeeze", "Unsqueeze", "Cast"})


def where_counted(values: Var, weights: Var) -> Var:
    """Return values, but 0 where one that counts for nothing is not finite: 0 times it would not be 0.

    The gradient of an amplitude does not exist at a baseline of zeros, which is on the path only to be scored.
    """
    context = values.tape.context
    zero, infinity = (context.scalar(v, values.tape.x.value) for v in (0.0, float("inf")))
    finite = context.op("Less", context.op("Abs", values.value), infinity)  # which no NaN is
    idle = context.op("And", context.op("Equal", weights.value, zero), context.op("Not", finite))
    return Var(values.tape, context.op("Where", idle, zero, values.value), values.shape)


def weighted_gradient(tape: Tape, found: Evaluation, weights: Var, *, skipped: int = 0) -> Var:
    """Sum the gradients of a path's points, weighted: ``(batch, K, *input shape)`` → ``(batch, *input shape)``.

    A layer with constant weights that reads the input hands back what it is handed, times those weights: at every
    point the same. So the sum is taken before such layers, which then have one gradient to hand back per window in
    place of K: a seventh of the time of 32 points on a CountNet.

    Args:
        tape: what the model was evaluated on.
        found: what ``Tape.evaluate_path`` returned.
        weights: of the points, ``(batch, K, 1, …)``, with a batch of one or the windows'.
        skipped: so many points, the first, count for nothing, whatever their gradient is.
    """
    context = tape.context
    points = context.op("Shape", found.at.value, start=0, end=2)
    unflattened = found.gradient.value.producer()
    assert unflattened is not None  # a path's gradient is always made of that of its points in a row
    linear, value = _linear_end(unflattened.inputs[0])
    rows = context.op("Reshape", value, context.op("Concat", points, context.ints([-1]), axis=0))
    batch = context.op("Shape", weights.value, start=0, end=1)
    each = context.op("Reshape", weights.value, context.op("Concat", batch, context.ints([1, -1]), axis=0))
    if skipped:
        start, end = context.ints([skipped]), context.ints([2**62])
        rows = context.op("Slice", rows, start, end, context.ints([1]))
        each = context.op("Slice", each, start, end, context.ints([2]))
    total = context.op("MatMul", each, rows)
    rest = context.op("Shape", value, start=1)
    total = context.op("Reshape", total, context.op("Concat", context.ints([-1]), rest, axis=0))
    for node in reversed(linear):
        total = context.again(node, [total, *node.inputs[1:]])[0]
    return Var(tape, total, tape.x.shape)


def _linear_end(value: ir.Value | None) -> tuple[list[ir.Node], ir.Value]:
    """Return the nodes of constant weights that a value comes from, the last first, and what they are handed."""
    found: list[ir.Node] = []
    assert value is not None  # the operand of a Reshape
    while (node := value.producer()) is not None and _is_linear(node):
        found.append(node)
        assert node.inputs[0] is not None  # the operand of what is linear
        value = node.inputs[0]
    return found, value


def _is_linear(node: ir.Node) -> bool:
    """Say whether a node is a linear map of its first operand, the same for every row of it."""
    others = node.inputs[1:]
    if node.domain not in ("", "ai.onnx") or not others or not all(_is_constant(v) for v in others):
        return False
    if node.op_type == "Squeeze":
        axes = others[0].const_value if others[0] is not None else None
        return axes is not None and bool((axes.numpy() > 0).all())
    return node.op_type in ("Conv", "ConvTranspose") and len(others) == 1  # with no bias


def _is_constant(value: ir.Value | None) -> bool:
    """Say whether a value is made of nothing but initialisers."""
    if value is None:
        return False
    node = value.producer()
    if node is None:
        return value.is_initializer()
    return node.op_type in _ARRANGING and all(v is None or _is_constant(v) for v in node.inputs)


def sum_over_tones_at(tape: Tape, cells: Var) -> Var:
    """Sum the cells of each tone at each point: ``(batch, K, *input shape)`` → ``(batch, K, n_tones)``."""
    context, shape = tape.context, tape.x.shape
    flat = Var(tape, context.op("Reshape", cells.value, context.ints([-1, *shape])), shape)
    folded = tape.sum_over_tones(flat)
    points = context.op("Shape", cells.value, start=0, end=2)
    whole = context.op("Concat", points, context.ints([-1]), axis=0)
    return Var(tape, context.op("Reshape", folded.value, whole), (cells.shape[0], *folded.shape))


def spread_of_cells(tape: Tape, x: Var) -> Var:
    """Return the largest less the smallest cell of each window: ``(batch, 1, …)``, one axis for each of ``x``'s."""
    context = tape.context
    axes = context.ints(list(range(1, len(x.shape) + 1)))
    largest, smallest = (context.op(op, x.value, axes, keepdims=1) for op in ("ReduceMax", "ReduceMin"))
    return Var(tape, context.op("Sub", largest, smallest), (1,) * len(x.shape))


def pair_differences(tape: Tape, points: Var) -> Var:
    """Return what points 1, 3, 5 … are beside points 2, 4, 6 …; point 0 and one without a partner are left out.

    Shapes:
        (batch, K, …) → (batch, (K − 1) // 2, …).
    """
    context = tape.context
    axis, step = context.ints([1]), context.ints([2])

    def every_second(start: int, stop: int) -> Var:
        value = context.op("Slice", points.value, context.ints([start]), context.ints([stop]), axis, step)
        return Var(tape, value, (-1, *points.shape[1:]))

    return every_second(1, -1) - every_second(2, 2**62)
