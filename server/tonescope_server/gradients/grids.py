"""Maps over a layer's grid, brought to the input's size: what class activation maps and attention end with."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from tonescope_server.errors import MethodNotApplicableError
from tonescope_server.gradients.axes import Axis
from tonescope_server.gradients.tape import Tape
from tonescope_server.gradients.variables import Var


def onto_input(tape: Tape, found: Var, axes: Sequence[Axis]) -> Var:
    """Bring a map to the input's size, by linear interpolation between the centres of its entries.

    Entries that stand for no place in the input, as class tokens do, are left out. Along the input's other axes, as
    channels, every cell gets the value of its place.

    Shapes:
        found: ``(batch, *grid)`` → ``(batch, *input shape)``.

    Args:
        tape: the tape.
        found: the map.
        axes: what each axis of the grid lies along; see ``Tape.axes``.

    Raises:
        MethodNotApplicableError: the grid does not lie along one or two axes of the input.
    """
    grid = [place for axis in axes for place in axis.grid]
    along = [axis for axis, _ in grid]
    if not all(axis.grid for axis in axes) or len(set(along)) != len(along) or not 1 <= len(along) <= 2:
        raise MethodNotApplicableError(f"a map of shape {found.shape} lies along no one or two axes of the input")
    value = _on_grid(tape, found, axes)
    order = sorted(range(len(grid)), key=along.__getitem__)
    return _over_the_rest(tape, _interpolated(tape, value, [grid[i] for i in order], order), sorted(along))


def along_of(axes: Sequence[Axis]) -> tuple[int, ...]:
    """Return the input's axes that a grid lies along, the batch's being 0."""
    return tuple(axis for part in axes for axis, _ in part.grid)


def interpolated(tape: Tape, found: Var, size: int) -> Var:
    """Stretch ``(batch, n)`` to ``(batch, size)``, by linear interpolation between centres."""
    if found.shape == (size,):
        return found
    context = tape.context
    image = context.op("Unsqueeze", found.value, context.ints([1, 2]))
    return Var(tape, context.op("Squeeze", _resized(tape, image, [1, size]), context.ints([1, 2])), (size,))


def on_grid(tape: Tape, found: Var, sizes: Sequence[int], axis: int) -> Var:
    """Stretch ``(batch, rows · columns)`` to the input's shape, rows and columns along its axes from ``axis`` on."""
    context = tape.context
    image = context.op("Reshape", found.value, context.ints([-1, *sizes]))
    parts: list[tuple[int, int | None]] = [(axis + i, size) for i, size in enumerate(sizes)]
    return _over_the_rest(tape, _interpolated(tape, image, parts, range(len(parts))), [place for place, _ in parts])


def _on_grid(tape: Tape, found: Var, axes: Sequence[Axis]) -> ir.Value:
    """Leave out the entries around grids, and give every factor of a grid an axis of its own."""
    context, value = tape.context, found.value
    for place, axis in enumerate(axes, start=1):
        if axis.before or axis.after:
            stop = -axis.after if axis.after else np.iinfo(np.int64).max
            value = context.op("Slice", value, *(context.ints([i]) for i in (axis.before or 0, stop, place)))
    if any(len(axis.parts) > 1 for axis in axes):
        value = context.op("Reshape", value, context.ints([-1, *(size or 0 for axis in axes for _, size in axis.grid)]))
    return value


def _interpolated(
    tape: Tape, value: ir.Value, grid: Sequence[tuple[int, int | None]], order: Sequence[int]
) -> ir.Value:
    """Return a map ``(batch, *grid)`` as an image of the input's sizes, ``(batch, 1, rows, columns)``.

    Args:
        tape: the tape.
        value: the map, its axes in an order of their own.
        grid: the input's axis and the length, in the order of the input's axes.
        order: where each of those stands in the map.
    """
    context = tape.context
    if list(order) != sorted(order):
        value = context.op("Transpose", value, perm=[0, *(1 + i for i in order)])
    have = [size for _, size in grid]
    want = [tape.x.shape[axis - 1] for axis, _ in grid]
    image = context.op("Unsqueeze", value, context.ints([1] if len(have) == 2 else [1, 2]))
    return image if have == want else _resized(tape, image, [1, *want] if len(want) == 1 else want)


def _resized(tape: Tape, image: ir.Value, sizes: Sequence[int]) -> ir.Value:
    """Resize ``(batch, 1, rows, columns)``; in float32, which is the only type that every runtime resizes."""
    context = tape.context
    kind = context.dtype(tape.x.value)
    if kind != ir.DataType.FLOAT:
        image = context.op("Cast", image, to=ir.DataType.FLOAT.value)
    whole = context.op("Concat", context.op("Shape", image, start=0, end=2), context.ints(sizes), axis=0)
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    resized = context.op("Resize", image, None, None, whole, **how)
    return resized if kind == ir.DataType.FLOAT else context.op("Cast", resized, to=kind.value)


def _over_the_rest(tape: Tape, image: ir.Value, along: Sequence[int]) -> Var:
    """Lay an image out along axes of the input, and repeat it along the others."""
    context, shape = tape.context, tape.x.shape
    own = [size if axis in along else 1 for axis, size in enumerate(shape, start=1)]
    laid_out = context.op("Reshape", image, context.ints([-1, *own]))
    if prod(own) != prod(shape):
        laid_out = context.op("Expand", laid_out, context.ints([1, *shape]))
    return Var(tape, laid_out, shape)
