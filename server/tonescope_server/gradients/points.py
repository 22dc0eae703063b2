"""What methods that evaluate at many points per window have in common, beyond ``Tape.evaluate_path``."""

from __future__ import annotations

from tonescope_server.gradients.tape import Tape
from tonescope_server.gradients.variables import Var


def where_counted(values: Var, weights: Var) -> Var:
    """Return values, but 0 where one that counts for nothing is not finite: 0 times it would not be 0.

    The gradient of an amplitude does not exist at a baseline of zeros, which is on the path only to be scored.
    """
    context = values.tape.context
    zero, infinity = (context.scalar(v, values.tape.x.value) for v in (0.0, float("inf")))
    finite = context.op("Less", context.op("Abs", values.value), infinity)  # which no NaN is
    idle = context.op("And", context.op("Equal", weights.value, zero), context.op("Not", finite))
    return Var(values.tape, context.op("Where", idle, zero, values.value), values.shape)


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
