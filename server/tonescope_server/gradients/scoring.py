"""What a target is made of in a graph: outputs laid flat, and the largest element picked. Emits; decides nothing."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from tonescope_server.gradients.context import Context


def flat_output(context: Context, value: ir.Value) -> ir.Value:
    """Return an output as ``(batch, elements)``."""
    dims = context.dims(value)
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
    depth = context.ints([width]) if isinstance(width, int) else context.op("Shape", flat, start=1, end=2)
    return context.op("OneHot", best, depth, context.constant([0.0, 1.0], context.dtype(flat).numpy()), axis=-1)
