"""Several cotangents in one backward pass: targets × windows are its batch, and forward values are repeated along it.

``walk.pull_back_each`` gives the same from one backward pass per target. Which is faster depends on the batch;
who chooses is in ``engine.jacobian``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from tonescope_server.gradients.activity import is_float
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import RuleSet
from tonescope_server.gradients.walk import pull_back


def can_fold(context: Context, forward: Sequence[ir.Node], x: ir.Value, wrt: Sequence[ir.Value]) -> bool:
    """Tell whether targets can be folded into the batch: the batch comes first, and no node holds a graph."""
    nested = any(a.type == ir.AttributeType.GRAPH for node in forward for a in node.attributes.values())
    return not nested and all(_batch_axis(context, v, x) == 0 for v in (x, *wrt))


def pull_back_folded(
    context: Context,
    forward: Sequence[ir.Node],
    x: ir.Value,
    count: int,
    seeds: Mapping[ir.Value, ir.Value],
    wrt: Sequence[ir.Value],
    rule_set: RuleSet,
) -> list[ir.Value]:
    """Emit one backward pass, with targets × windows in its batch axis, into the context's own graph.

    The walk goes over a copy of the forward nodes that reads the repeated input; then every value of the copy whose
    batch axis is known gives way to the original, repeated. What nothing reads any more is for the caller to remove:
    of the copy that leaves only nodes whose results have no batch axis to repeat, such as shapes and flat indices.

    Args:
        context: as for ``pull_back_each``.
        forward: the nodes that compute the model.
        x: the model's input, batch first.
        count: how many targets there are.
        seeds: by value of ``forward``, its cotangents: ``(targets, *shape of the value)``.
        wrt: the values to differentiate by; ``can_fold`` must have agreed.
        rule_set: the backward rules.

    Returns:
        As for ``pull_back_each``.

    Raises:
        UnsupportedOperatorError: an operator on the way has no rule.
    """
    copies = {x: _repeated(context, x, x, count)}
    repeated: dict[ir.Value, ir.Value] = {}
    copied: list[tuple[ir.Node, list[ir.Value | None]]] = []
    depends = {x}
    for node in forward:
        if any(v in depends for v in node.inputs):
            depends.update(node.outputs)
            copied.append((node, list(node.inputs)))
            repeated.update({v: _repeated(context, v, x, count) for v in node.outputs if _is_repeatable(context, v, x)})
    for node, operands in copied:
        made = context.again(node, [None if v is None else copies.get(v, v) for v in operands])
        made[0].producer().name = node.name  # type: ignore[union-attr]  # errors and settings name the model's own node
        for old, new in zip(node.outputs, made, strict=True):
            copies[old] = context.typed(new, old) if old.shape is not None else new
    own = {copies[v]: context.typed(_joined(context, c, v), v) for v, c in seeds.items()}
    found = pull_back(context, own, [copies[v] for v in wrt], rule_set)
    for node, _ in copied:
        copies[node.outputs[0]].producer().name = None  # type: ignore[union-attr]  # names are unique in a graph
    for value, twin in repeated.items():
        copies[value].replace_all_uses_with(twin)
    return [_parted(context, g, v, count) for g, v in zip(found, wrt, strict=True)]


def _batch_axis(context: Context, value: ir.Value, x: ir.Value) -> int | None:
    """Return which axis of a value is the batch; None where that cannot be told."""
    if value.shape is None:
        return None
    batch, dims = context.dims(x)[0], context.dims(value)
    return dims.index(batch) if isinstance(batch, str) and dims.count(batch) == 1 else None


def _is_repeatable(context: Context, value: ir.Value, x: ir.Value) -> bool:
    """Tell whether repeating a value gives what the repeated input would: flat indices count rows, and do not.

    A result that a node leaves out has no name, though it may have a shape, and cannot be read.
    """
    return bool(value.name) and is_float(value) and _batch_axis(context, value, x) is not None


def _repeated(context: Context, value: ir.Value, x: ir.Value, count: int) -> ir.Value:
    axis = _batch_axis(context, value, x)
    repeats = [count if k == axis else 1 for k in range(context.rank(value))]
    return context.typed(context.op("Tile", value, context.ints(repeats)), value)


def _joined(context: Context, cotangents: ir.Value, value: ir.Value) -> ir.Value:
    """``(targets, batch, …)`` → ``(targets · batch, …)``."""
    rest = context.dims(value)[1:]
    if all(isinstance(d, int) and d > 0 for d in rest):
        return context.op("Reshape", cotangents, context.ints([-1, *(int(d or 0) for d in rest)]))
    shape = context.op("Concat", context.ints([-1]), context.op("Shape", value, start=1), axis=0)
    return context.op("Reshape", cotangents, shape)


def _parted(context: Context, gradient: ir.Value, value: ir.Value, count: int) -> ir.Value:
    """``(targets · batch, …)`` → ``(targets, batch, …)``."""
    rest = context.dims(value)[1:]
    if all(isinstance(d, int) and d > 0 for d in rest):
        return context.op("Reshape", gradient, context.ints([count, -1, *(int(d or 0) for d in rest)]))
    shape = context.op("Concat", context.ints([count]), context.op("Shape", value), axis=0)
    return context.op("Reshape", gradient, shape)
