"""Operators that pick elements out or put them in: Gather and Scatter in their kinds, Slice, Split, TopK, Pad, Expand.

What picks by position gives back by adding at that position: an element picked twice gets both cotangents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required


def gather(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Add each picked slice back where it came from."""
    x, indices, g = required(node.inputs[0]), required(node.inputs[1]), required(cotangents[0])
    axis = ctx.attribute(node, "axis", 0) % ctx.rank(x)
    rank = ctx.rank(indices)
    known, size = ctx.value_of(indices), ctx.dims(x)[axis]
    if known is not None and known.size == 1 and isinstance(size, int):
        # One slice, such as a class token: padding with zeros is far cheaper than scattering.
        at = int(known.ravel()[0]) % size
        back = ctx.op("Unsqueeze", g, ctx.ints([axis])) if rank == 0 else g
        if rank > 1:
            back = ctx.op("Squeeze", g, ctx.ints(range(axis, axis + rank - 1)))
        return [ctx.pad(back, ctx.rank(x), {axis: (at, size - at - 1)})]
    flat = ctx.op("Reshape", indices, ctx.ints([-1]))
    shape = ctx.op("Shape", g)
    if rank != 1:
        before, after = ctx.op("Shape", g, start=0, end=axis), ctx.op("Shape", g, start=axis + rank)
        shape = ctx.op("Concat", before, ctx.ints([-1]), after, axis=0)
        g = ctx.op("Reshape", g, shape)
    return [scatter_along(ctx, g, flat, x, axis)]


def scatter_along(ctx: Context, g: ir.Value, indices: ir.Value, x: ir.Value, axis: int) -> ir.Value:
    """Add slice i of ``g`` along ``axis`` to slice ``indices[i]`` of zeros of ``x``'s shape."""
    order = [axis, *(a for a in range(ctx.rank(x)) if a != axis)]
    turn = axis != 0
    front = ctx.op("Transpose", g, perm=order) if turn else g
    shape = ctx.shape_of(x)
    if turn:
        shape = ctx.op("Gather", shape, ctx.ints(order), axis=0)
    summed = ctx.scattered("ScatterND", shape, ctx.op("Unsqueeze", indices, ctx.ints([1])), front, x)
    if turn:
        summed = ctx.op("Transpose", summed, perm=[order.index(a) for a in range(len(order))])
    return summed


def gather_elements(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Add each element back at its index along the axis."""
    x, indices = required(node.inputs[0]), required(node.inputs[1])
    axis = ctx.attribute(node, "axis", 0)
    return [ctx.scattered("ScatterElements", ctx.shape_of(x), indices, required(cotangents[0]), x, axis=axis)]


def gather_nd(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Add each picked slice back at its position."""
    x, indices = required(node.inputs[0]), required(node.inputs[1])
    batch = ctx.attribute(node, "batch_dims", 0)
    if batch:
        indices = _with_batch_positions(ctx, indices, batch)
    return [ctx.scattered("ScatterND", ctx.shape_of(x), indices, required(cotangents[0]), x)]


def _with_batch_positions(ctx: Context, indices: ir.Value, batch: int) -> ir.Value:
    """Put, in front of each position, which entry of the leading axes it belongs to."""
    rest = ctx.rank(indices) - 1 - batch
    ones = ctx.op("Expand", ctx.constant(np.int64(1)), ctx.op("Shape", indices, end=batch))
    entries = ctx.op("Transpose", ctx.op("NonZero", ones), perm=[1, 0])
    lead = ctx.op("Concat", ctx.op("Shape", indices, end=batch), ctx.ints([*[1] * rest, batch]), axis=0)
    whole = ctx.op("Concat", ctx.op("Shape", indices, end=-1), ctx.ints([batch]), axis=0)
    spread = ctx.op("Expand", ctx.op("Reshape", entries, lead), whole)
    return ctx.op("Concat", spread, indices, axis=-1)


def compress(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Put each slice that was kept back where it came from."""
    x, condition, g = required(node.inputs[0]), required(node.inputs[1]), required(cotangents[0])
    kept = ctx.op("Reshape", ctx.op("NonZero", condition), ctx.ints([-1]))
    axis = ctx.attribute(node, "axis", None)
    if axis is not None:
        return [scatter_along(ctx, g, kept, x, axis % ctx.rank(x))]
    size = ctx.op("Reshape", ctx.op("Size", x), ctx.ints([-1]))
    return [ctx.reshape_like(ctx.scattered("ScatterElements", size, kept, g, x, axis=0), x)]


def reverse_sequence(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Reverse the same stretches again."""
    axes = {name: ctx.attribute(node, name, default) for name, default in (("batch_axis", 1), ("time_axis", 0))}
    return [ctx.op("ReverseSequence", cotangents[0], node.inputs[1], **axes)]


def scatter_elements(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """What was overwritten gets nothing; what was put in, or added, gets the cotangent at its index.

    Refused: reduction mul.
    """
    data, indices, updates = (required(v) for v in node.inputs[:3])
    g, axis = required(cotangents[0]), ctx.attribute(node, "axis", 0)
    if _reduction(ctx, node) in ("max", "min"):
        return _scattered_extreme(ctx, node, g, "ScatterElements", "GatherElements", {"axis": axis})
    kept = g
    if _reduction(ctx, node) == "none":
        blank = ctx.op("Expand", ctx.scalar(0.0, updates), ctx.shape_of(updates))
        kept = ctx.op("ScatterElements", g, indices, blank, axis=axis)
    put = ctx.op("GatherElements", g, indices, axis=axis) if ctx.need(updates) else None
    if put is not None and _reduction(ctx, node) == "none" and _may_repeat(ctx, indices, axis):
        put = _of_the_last(ctx, node, put, "ScatterElements", "GatherElements", {"axis": axis})
    return [kept if ctx.need(data) else None, None, put]


def scatter_nd(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As for ScatterElements, by positions.

    Refused: reduction mul.
    """
    data, indices, updates = (required(v) for v in node.inputs[:3])
    g = required(cotangents[0])
    if _reduction(ctx, node) in ("max", "min"):
        return _scattered_extreme(ctx, node, g, "ScatterND", "GatherND", {})
    kept = g
    if _reduction(ctx, node) == "none":
        blank = ctx.op("Expand", ctx.scalar(0.0, updates), ctx.shape_of(updates))
        kept = ctx.op("ScatterND", g, indices, blank)
    put = ctx.op("GatherND", g, indices) if ctx.need(updates) else None
    if put is not None and _reduction(ctx, node) == "none" and _may_repeat(ctx, indices, None):
        put = _of_the_last(ctx, node, put, "ScatterND", "GatherND", {})
    return [kept if ctx.need(data) else None, None, put]


def _may_repeat(ctx: Context, indices: ir.Value, axis: int | None) -> bool:
    """Tell whether two updates may go to one place: of ScatterElements along an axis, of ScatterND by whole rows."""
    known = ctx.value_of(indices)
    if known is None or (known < 0).any():  # −1 may be a place that has another name too
        return True
    if axis is None:
        rows = known.reshape(-1, known.shape[-1])
        return len(np.unique(rows, axis=0)) < len(rows)
    lines = np.sort(known, axis=axis)
    return bool((np.diff(lines, axis=axis) == 0).any())


def _of_the_last(
    ctx: Context, node: ir.Node, put: ir.Value, scatter: str, gather: str, where: dict[str, int]
) -> ir.Value:
    """Return what goes back to updates, but nothing to those that a later one wrote over.

    Each update's number is scattered as it is itself, which tells whose is left.
    """
    data, indices, updates = (required(v) for v in node.inputs[:3])
    size = ctx.op("Size", updates)
    numbers = ctx.op("Range", ctx.constant(np.int64(0)), size, ctx.constant(np.int64(1)))
    numbers = ctx.op("Reshape", numbers, ctx.shape_of(updates))
    nobody = ctx.op("Expand", ctx.constant(np.int64(-1)), ctx.shape_of(data))
    left = ctx.op(gather, ctx.op(scatter, nobody, indices, numbers, **where), indices, **where)
    return ctx.op("Where", ctx.op("Equal", left, numbers), put, ctx.scalar(0.0, data))


def _scattered_extreme(
    ctx: Context, node: ir.Node, g: ir.Value, scatter: str, gather: str, where: dict[str, int]
) -> Sequence[ir.Value | None]:
    """Give to whatever became the maximum (minimum) of its place, in equal parts where several did."""
    data, indices, updates = (required(v) for v in node.inputs[:3])
    y, kind = node.outputs[0], int(ctx.dtype(data))
    stayed = ctx.op("Cast", ctx.op("Equal", data, y), to=kind)
    came = ctx.op("Cast", ctx.op("Equal", updates, ctx.op(gather, y, indices, **where)), to=kind)
    count = ctx.op("Add", stayed, ctx.scattered(scatter, ctx.shape_of(data), indices, came, data, **where))
    each = ctx.op("Div", g, count)
    return [
        ctx.op("Mul", each, stayed) if ctx.need(data) else None,
        None,
        ctx.op("Mul", ctx.op(gather, each, indices, **where), came) if ctx.need(updates) else None,
    ]


def _reduction(ctx: Context, node: ir.Node) -> str:
    reduction = str(ctx.attribute(node, "reduction", "none"))
    if reduction not in ("none", "add", "max", "min"):
        raise ctx.unsupported(node, f"reduction '{reduction}': expected none, add, max or min")
    return reduction


def slice_(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Put the slice back among zeros.

    Refused: axes known only at run time.
    """
    x, g = required(node.inputs[0]), required(cotangents[0])
    starts, ends = required(node.inputs[1]), required(node.inputs[2])
    axes = _slice_axes(ctx, node, x)
    plain = _plain_slice(ctx, node, x, axes)
    if plain is not None:
        return [ctx.pad(g, ctx.rank(x), plain) if any(map(any, plain.values())) else g]
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    for i, axis in enumerate(axes):
        # The same slice, taken of the positions themselves, says where each element came from.
        size = ctx.op("Squeeze", ctx.op("Shape", x, start=axis, end=axis + 1), ctx.ints([0]))
        positions = ctx.op("Range", ctx.constant(np.int64(0)), size, ctx.constant(np.int64(1)))
        one = ctx.ints([i])
        part = [ctx.op("Cast", ctx.op("Gather", v, one), to=int(ir.DataType.INT64)) for v in (starts, ends)]
        stride = ctx.ints([1]) if steps is None else ctx.op("Gather", steps, one)
        stride = ctx.op("Cast", stride, to=int(ir.DataType.INT64))
        picked = ctx.op("Slice", positions, *part, ctx.ints([0]), stride)
        g = _scatter_widen(ctx, g, picked, size, axis, ctx.rank(x))
    return [g]


def _slice_axes(ctx: Context, node: ir.Node, x: ir.Value) -> list[int]:
    given = node.inputs[3] if len(node.inputs) > 3 else None
    if given is None:
        return list(range(int(ctx.dims(required(node.inputs[1]))[0])))  # type: ignore[arg-type]
    known = ctx.value_of(given)
    if known is None:
        raise ctx.unsupported(node, "its axes are computed at run time, and constant ones are needed")
    return [int(a) % ctx.rank(x) for a in known.ravel()]


def _plain_slice(ctx: Context, node: ir.Node, x: ir.Value, axes: Sequence[int]) -> dict[int, tuple[int, int]] | None:
    """Return how much is left out before and after, by axis, where all is known and every step is one."""
    found = [ctx.value_of(v) for v in node.inputs[1:3]]
    steps = ctx.value_of(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else 1
    sizes = [ctx.dims(x)[a] for a in axes]
    if found[0] is None or found[1] is None or steps is None or not all(isinstance(s, int) for s in sizes):
        return None
    if not np.all(np.asarray(steps) == 1):
        return None
    plain = {}
    for axis, size, start, end in zip(axes, sizes, found[0].ravel(), found[1].ravel(), strict=True):
        first, last, _ = slice(int(start), int(end)).indices(int(str(size)))
        plain[axis] = (first, int(str(size)) - max(last, first))
    return plain


def _scatter_widen(ctx: Context, g: ir.Value, picked: ir.Value, size: ir.Value, axis: int, rank: int) -> ir.Value:
    """Spread ``g`` along one axis to ``size`` slices, slice i to position ``picked[i]``."""
    order = [axis, *(a for a in range(rank) if a != axis)]
    front = ctx.op("Transpose", g, perm=order)
    shape = ctx.op("Concat", ctx.op("Unsqueeze", size, ctx.ints([0])), ctx.op("Shape", front, start=1), axis=0)
    zeros = ctx.op("Expand", ctx.op("CastLike", ctx.constant(0.0, np.float32), g), shape)
    wide = ctx.op("ScatterND", zeros, ctx.op("Unsqueeze", picked, ctx.ints([1])), front)
    return ctx.op("Transpose", wide, perm=[order.index(a) for a in range(rank)])


def split(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Join the cotangents; a part that nothing used gets zeros."""
    axis = ctx.attribute(node, "axis", 0)
    parts = [
        ctx.op("Expand", ctx.scalar(0.0, part), ctx.shape_of(part)) if g is None else g
        for g, part in zip(cotangents, node.outputs, strict=True)
    ]
    return [ctx.op("Concat", *parts, axis=axis)]


def expand(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Sum over the axes that were broadcast."""
    return [ctx.unbroadcast(required(cotangents[0]), required(node.inputs[0]), node.outputs[0])]


def tile(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Sum over the copies."""
    x, repeats = required(node.inputs[0]), required(node.inputs[1])
    rank = ctx.rank(x)
    # (r0, d0, r1, d1, …): each axis split into its copies and its own extent, then the copies summed.
    pairs = ctx.op(
        "Concat",
        ctx.op("Unsqueeze", repeats, ctx.ints([1])),
        ctx.op("Unsqueeze", ctx.op("Shape", x), ctx.ints([1])),
        axis=1,
    )
    apart = ctx.op("Reshape", cotangents[0], ctx.op("Reshape", pairs, ctx.ints([-1])))
    return [ctx.op("ReduceSum", apart, ctx.ints(range(0, 2 * rank, 2)), keepdims=0)]


def pad(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Cut the padding off; in the modes that repeat elements, add it back to those.

    Refused: a fill that depends on the input, axes known only at run time.
    """
    x, g = required(node.inputs[0]), required(cotangents[0])
    if any(ctx.need(v) for v in node.inputs[1:]):
        raise ctx.unsupported(node, "its constant value depends on the input")
    rank, mode = ctx.rank(x), ctx.attribute(node, "mode", "constant")
    given = node.inputs[3] if len(node.inputs) > 3 else None
    known = ctx.value_of(given)
    if given is not None and known is None:
        raise ctx.unsupported(node, "its axes are computed at run time, and constant ones are needed")
    axes = list(range(rank)) if known is None else [int(a) % rank for a in known.ravel()]
    pads = required(node.inputs[1])
    amounts = ctx.value_of(pads)
    for i, axis in enumerate(axes):
        if amounts is not None and not amounts.ravel()[i] and not amounts.ravel()[len(axes) + i]:
            continue
        pair = ctx.op("Gather", pads, ctx.ints([i, len(axes) + i]))
        size = ctx.op("Squeeze", ctx.op("Shape", x, start=axis, end=axis + 1), ctx.ints([0]))
        positions = ctx.op("Range", ctx.constant(np.int64(0)), size, ctx.constant(np.int64(1)))
        g = _unpadded(ctx, g, positions, pair, size, axis, x, mode)
    return [ctx.typed(g, x)]


def _unpadded(
    ctx: Context, g: ir.Value, positions: ir.Value, pair: ir.Value, size: ir.Value, axis: int, like: ir.Value, mode: str
) -> ir.Value:
    """Undo one axis of a Pad. Padding the positions themselves says which element each result came from.

    Constant padding is marked by a position past the end, where a spare slice takes what is thrown away.
    """
    spare = ctx.op("Unsqueeze", size, ctx.ints([0]))
    value = ctx.op("Squeeze", spare, ctx.ints([0])) if mode == "constant" else None
    source = ctx.op("Pad", positions, pair, value, mode=mode)
    rank = ctx.rank(like)
    order = [axis, *(a for a in range(rank) if a != axis)]
    front = ctx.op("Transpose", g, perm=order)
    more = ctx.op("Add", spare, ctx.ints([1]))
    shape = ctx.op("Concat", more, ctx.op("Shape", front, start=1), axis=0)
    summed = ctx.scattered("ScatterND", shape, ctx.op("Unsqueeze", source, ctx.ints([1])), front, like)
    kept = ctx.op("Slice", summed, ctx.ints([0]), spare, ctx.ints([0]))
    return ctx.op("Transpose", kept, perm=[order.index(a) for a in range(rank)])


def top_k(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Send each value's cotangent to where the value came from."""
    x = required(node.inputs[0])
    axis = ctx.attribute(node, "axis", -1)
    g = required(cotangents[0])
    return [ctx.scattered("ScatterElements", ctx.shape_of(x), node.outputs[1], g, x, axis=axis)]


def trilu(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Keep the same triangle."""
    return [ctx.op("Trilu", cotangents[0], *node.inputs[1:2], upper=ctx.attribute(node, "upper", 1))]


def cumulative_sum(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Sum cumulatively from the other end."""
    reverse, exclusive = ctx.attribute(node, "reverse", 0), ctx.attribute(node, "exclusive", 0)
    return [ctx.op("CumSum", cotangents[0], node.inputs[1], reverse=1 - reverse, exclusive=exclusive)]


def depth_to_space(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Move the elements back; in CRD order by hand, as SpaceToDepth knows only the other.

    Refused: mode CRD where sizes are known only at run time.
    """
    x, block = required(node.inputs[0]), ctx.attribute(node, "blocksize")
    if ctx.attribute(node, "mode", "DCR") == "DCR":
        return [ctx.op("SpaceToDepth", cotangents[0], blocksize=block)]
    channels, height, width = ctx.static_dims(node, x, 1, "mode CRD")
    apart = ctx.op("Reshape", cotangents[0], ctx.ints([-1, channels // block**2, height, block, width, block]))
    turned = ctx.op("Transpose", apart, perm=[0, 1, 3, 5, 2, 4])
    return [ctx.op("Reshape", turned, ctx.ints([-1, channels, height, width]))]


def space_to_depth(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Move the elements back, in the order that they came."""
    block, mode = ctx.attribute(node, "blocksize"), ctx.attribute(node, "mode", "DCR")
    return [ctx.op("DepthToSpace", cotangents[0], blocksize=block, mode=mode)]


RULES: dict[str, Rule] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Compress": compress,
    "ReverseSequence": reverse_sequence,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Slice": slice_,
    "Split": split,
    "Expand": expand,
    "Tile": tile,
    "Pad": pad,
    "TopK": top_k,
    "Trilu": trilu,
    "CumSum": cumulative_sum,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
