"""Resize: interpolation along each axis is a matrix, and its gradient the transposed matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tonescope_server.gradients.context import Context
from tonescope_server.gradients.rule_set import Cotangents, Rule
from tonescope_server.gradients.rules.elementwise import required

_SETTINGS = (
    "mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias",
)  # fmt: skip


def resize(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Multiply, axis by axis, with the transposed interpolation matrix, which ONNX's own reference supplies.

    Refused: tf_crop_and_resize, keep_aspect_ratio_policy other than stretch, scales or sizes known only at run time of
    axes that are resized.
    """
    x, g = required(node.inputs[0]), required(cotangents[0])
    if ctx.attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise ctx.unsupported(node, "coordinate_transformation_mode tf_crop_and_resize")
    rank = ctx.rank(x)
    axes = [a % rank for a in ctx.attribute(node, "axes", range(rank))]
    scales = _constant(ctx, node, 2)
    sizes = _sizes(ctx, node, axes)
    if scales is None and sizes is None:
        raise ctx.unsupported(node, "its scales or sizes are computed at run time, and constant ones are needed")
    if ctx.attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ctx.unsupported(node, "keep_aspect_ratio_policy other than stretch")
    for i, axis in enumerate(axes):
        if scales is not None and scales[i] == 1.0:
            continue
        size = ctx.dims(x)[axis]
        if sizes is not None and sizes[i] == size and size is not None:
            continue
        if not isinstance(size, int):
            if sizes is not None and axis == 0 and isinstance(sizes[i], int):
                continue  # the batch axis: a number stated for it can only be its own
            raise ctx.unsupported(node, f"axis {axis} is resized and its size is not static")
        if sizes is not None and not isinstance(sizes[i], int):
            raise ctx.unsupported(node, f"axis {axis} is resized to a size that is computed at run time")
        matrix = _interpolation(node, size, None if scales is None else scales[i], None if sizes is None else sizes[i])
        g = _along(ctx, g, matrix.astype(ctx.dtype(x).numpy()), axis, rank)
    return [g]


def _constant(ctx: Context, node: ir.Node, index: int) -> npt.NDArray[Any] | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    known = ctx.value_of(value)
    return known.ravel() if known is not None and known.size else None


def _sizes(ctx: Context, node: ir.Node, axes: Sequence[int]) -> Sequence[int | str | None] | None:
    """Return what the resized axes are resized to, as far as it is known: numbers, or the names of sizes."""
    stated = _constant(ctx, node, 3)
    if stated is not None:
        return [int(size) for size in stated]
    if len(node.inputs) < 4 or node.inputs[3] is None or node.outputs[0].shape is None:
        return None
    result = ctx.dims(node.outputs[0])
    return [result[axis] for axis in axes]


def _interpolation(node: ir.Node, size: int, scale: Any, wanted: Any) -> npt.NDArray[np.float32]:
    """Return the matrix (result, operand) of one axis: the answers to unit vectors."""
    settings = {n: node.attributes[n].value for n in _SETTINGS if n in node.attributes}
    inputs = ["x", "", "scales"] if scale is not None else ["x", "", "", "sizes"]
    stated = np.array([1, 1, scale], np.float32) if scale is not None else np.array([size, 1, wanted])
    one = helper.make_node("Resize", inputs, ["y"], **settings)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    initial = [onnx.numpy_helper.from_array(stated, inputs[-1])]
    graph = helper.make_graph([one], "axis", info[:1], info[1:], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    rows: Any = ReferenceEvaluator(model).run(None, {"x": np.eye(size, dtype=np.float32)[:, None, :]})
    matrix: npt.NDArray[np.float32] = np.asarray(rows[0])[:, 0, :].T
    return matrix


def _along(ctx: Context, g: ir.Value, matrix: npt.NDArray[Any], axis: int, rank: int) -> ir.Value:
    """Multiply ``g`` along one axis by ``matrixᵀ``."""
    order = [*(a for a in range(rank) if a != axis), axis]
    last = axis == rank - 1
    turned = g if last else ctx.op("Transpose", g, perm=order)
    done = ctx.op("MatMul", turned, ctx.constant(matrix))
    return done if last else ctx.op("Transpose", done, perm=[order.index(a) for a in range(rank)])


RULES: dict[str, Rule] = {"Resize": resize}
