"""Shape inference, and what ONNX's own leaves out: small integers folded, sizes recognised."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from tonescope_server.gradients.prepass._graph import input_of
from tonescope_server.gradients.prepass.branches import fold_branches
from tonescope_server.gradients.prepass.integers import Known, fold_integers
from tonescope_server.gradients.prepass.scopes import separate_scopes
from tonescope_server.gradients.rule_set import operator_name

_KEEPS_SHAPE = frozenset({"GroupNormalization", "MeanVarianceNormalization", "RMSNormalization"})
_MADE_UP = "unk__"  # how the names begin that ONNX's inference makes up
_BROADCASTS = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "MatMul"})


def infer_shapes(model: ir.Model) -> ir.Model:
    """Infer the shape and type of every value of ``model``, in place, and return it."""
    separate_scopes(model)
    known = _infer(model)
    while fold_branches(model, known):
        known = _infer(model)
    _recognise_sizes(model.graph)
    return model


def _infer(model: ir.Model) -> Known:
    """Infer until nothing more comes of it; return the integers that are known then."""
    infer = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    resized: set[ir.Value] = set()
    while True:
        infer(model)
        filled = _fill_same_shapes(model.graph)
        known, folded = fold_integers(model)
        filled = _fill_resized(model, known, resized) or filled
        if not filled and not folded:
            return known


def _recognise_sizes(graph: ir.Graph) -> None:
    """Call sizes that inference made up names for what they are, where all else says that it is an axis that came in.

    ONNX's inference makes up a new name for the −1 of a Reshape, and for whatever two differently named sizes
    broadcast to, so that two values of one batch seem to have two sizes, and every operator that might broadcast would
    have to find out at run time.
    """
    sizes: dict[str, int | str] = {}
    for node in graph:
        if operator_name(node) == "Reshape":
            before, after = (_open_size(v, sizes) for v in (input_of(node, 0), node.outputs[0]))
            if before and after and before[1] == after[1] and before[0] != after[0]:
                sizes[after[0]] = before[0]
        elif operator_name(node) in _BROADCASTS:
            sizes.update(_broadcast_sizes(node, sizes))
        elif operator_name(node) == "Resize":
            sizes.update(_kept_sizes(node, sizes))
    if not sizes:
        return
    for node in graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_size(d, sizes) for d in value.shape])


def _broadcast_sizes(node: ir.Node, sizes: Mapping[str, int | str]) -> Iterator[tuple[str, int | str]]:
    """Yield the made-up names of a result's sizes, and what all operands that do not broadcast there have."""
    own = 2 if node.op_type == "MatMul" else 0  # the matrix axes, which do not broadcast
    result = _known_dims(node.outputs[0], sizes)
    operands = [_known_dims(v, sizes) for v in node.inputs if v is not None]
    if result is None or any(dims is None for dims in operands):
        return
    for back in range(own + 1, len(result) + 1):
        there = {dims[-back] for dims in operands if dims is not None and len(dims) >= back and dims[-back] != 1}
        size = result[-back]
        if len(there) == 1 and isinstance(size, str) and size.startswith(_MADE_UP) and None not in there:
            (found,) = there
            if found is not None and found != size:
                yield size, found


def _kept_sizes(node: ir.Node, sizes: Mapping[str, int | str]) -> Iterator[tuple[str, int | str]]:
    """Yield the made-up names of the sizes that a Resize scales by one, and what they were."""
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    before, after = (_known_dims(v, sizes) for v in (input_of(node, 0), node.outputs[0]))
    if scales is None or scales.const_value is None or "axes" in node.attributes or before is None or after is None:
        return
    for scale, old, new in zip(scales.const_value.numpy().tolist(), before, after, strict=False):
        if scale == 1.0 and old is not None and isinstance(new, str) and new.startswith(_MADE_UP) and old != new:
            yield new, old


def _known_dims(value: ir.Value, sizes: Mapping[str, int | str]) -> list[int | str | None] | None:
    return None if value.shape is None else [_size(d, sizes) for d in value.shape]


def _open_size(value: ir.Value, sizes: Mapping[str, int | str]) -> tuple[str, int] | None:
    """Return the only axis of unknown size by its name, and the product of the others; None where it is not so."""
    dims = [_size(d, sizes) for d in value.shape] if value.shape is not None else []
    names = [d for d in dims if isinstance(d, str)]
    known = [d for d in dims if isinstance(d, int)]
    product = math.prod(known)
    return (names[0], product) if len(names) == 1 and len(known) + 1 == len(dims) and product else None


def _size(dim: int | ir.SymbolicDim, sizes: Mapping[str, int | str]) -> int | str | None:
    found = dim if isinstance(dim, int) else dim.value
    while isinstance(found, str) and found in sizes:
        found = sizes[found]
    return found


def _fill_same_shapes(graph: ir.Graph) -> bool:
    """Give results the operand's shape where ONNX infers none although the operator keeps it; tell whether any was."""
    filled = False
    for node in graph:
        if operator_name(node) not in _KEEPS_SHAPE:
            continue
        x, y = input_of(node, 0), node.outputs[0]
        if y.shape is None and x.shape is not None:
            y.shape, y.type = x.shape, x.type
            filled = True
    return filled


def _fill_resized(model: ir.Model, known: Known, done: set[ir.Value]) -> bool:
    """Give what is resized to sizes known in part, such as all but the batch, those sizes; tell whether any was.

    Each result is filled once, and put into ``done``: inference may forget what it is told.
    """
    filled = False
    for node in (n for graph in model.graphs() for n in graph):
        if operator_name(node) != "Resize" or len(node.inputs) < 4 or node.inputs[3] is None:
            continue
        y, sizes, old = node.outputs[0], known.sizes(node.inputs[3]), input_of(node, 0).shape
        policy = node.attributes.get("keep_aspect_ratio_policy")
        if y in done or sizes is None or old is None or (policy is not None and policy.as_string() != "stretch"):
            continue
        axes = node.attributes["axes"].as_ints() if "axes" in node.attributes else range(len(old))
        wanted = list(old)
        for axis, size in zip(axes, sizes, strict=False):
            wanted[axis] = size if isinstance(size, int) else ir.SymbolicDim(size)
        done.add(y)
        if y.shape is None or list(y.shape) != wanted:
            y.shape, filled = ir.Shape(wanted), True
    return filled
