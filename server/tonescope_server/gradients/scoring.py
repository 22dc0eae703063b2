"""What a target is made of in a graph: outputs laid flat, and the largest element picked. Emits; decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from tonescope_server.errors import MethodNotApplicableError
from tonescope_server.gradients.context import Context
from tonescope_server.gradients.seed import Seed, weights_name


def flat_output(context: Context, value: ir.Value) -> ir.Value:
    """Return an output as ``(batch, elements)``.

    Raises:
        MethodNotApplicableError: it has no batch axis.
    """
    dims = context.dims(value)
    if not dims:
        raise MethodNotApplicableError(
            f"output '{value.name}': expected a batch axis first, got one number for all windows together"
        )
    if len(dims) == 2:
        return value
    sizes = [d for d in dims[1:] if isinstance(d, int)]
    width: int | str = prod(sizes) if len(sizes) == len(dims) - 1 else "elements"
    flat = context.op("Flatten", value, axis=1)
    flat.shape, flat.type = ir.Shape([dims[0], width]), value.type
    return flat


def one_hot(context: Context, flat: ir.Value) -> ir.Value:
    """Return one at each row's largest element and zero elsewhere, ``(batch, elements)``."""
    best = context.op("ArgMax", flat, axis=1, keepdims=0)
    width = context.dims(flat)[1]
    # A depth of rank 1 is allowed too, but not every runtime takes it.
    if isinstance(width, int):
        depth = context.constant(np.int64(width))
    else:
        depth = context.op("Squeeze", context.op("Shape", flat, start=1))
    values = context.constant([0.0, 1.0], context.dtype(flat).numpy())
    return context.mark_one_hot(context.op("OneHot", best, depth, values, axis=-1), best)


def stacked_cotangents(
    context: Context,
    seed: Seed,
    outputs: Sequence[ir.Value],
    count: int,
    feed: Callable[[str, Sequence[int | str]], ir.Value],
) -> dict[ir.Value, ir.Value]:
    """Emit the cotangents of several targets that are made of the same terms.

    Args:
        context: emits into the graph that computes the outputs.
        seed: the terms; their scales are left out, for what is fed holds them.
        outputs: the model's.
        count: how many targets there are.
        feed: adds a run-time input. A term's is ``(targets, batch, elements)``; that of a predicted one
            ``(targets, 1, 1)``, a factor.

    Returns:
        By the value that is weighted, ``(batch, elements)``: its weights, ``(targets, batch, elements)``.
    """
    found: dict[ir.Value, ir.Value] = {}
    by_name = {str(v.name): v for v in outputs}
    for number, term in enumerate(seed):
        flat = flat_output(context, by_name[term.output])
        if term.predicted:
            picked = context.op("Unsqueeze", one_hot(context, flat), context.ints([0]))
            weights = context.op("Mul", picked, feed(weights_name(number), [count, 1, 1]))
        else:
            weights = feed(weights_name(number), [count, "batch", context.dims(flat)[1] or "elements"])
        weighted = context.typed(context.op("LogSoftmax", flat, axis=1), flat) if term.log_softmax else flat
        have = found.get(weighted)
        found[weighted] = weights if have is None else context.op("Add", have, weights)
    return found
