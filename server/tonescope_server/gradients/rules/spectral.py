"""Fourier transforms along an axis: each is a matrix, and its gradient the transposed matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

MOST_ELEMENTS = 1 << 22
"""Of the matrix: 16 MB in float32, a transform of 1024 complex samples."""
_AXIS_IS_AN_INPUT = 20


def dft(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """Multiply, along the axis, with the transposed matrix of the transform, which ONNX's own reference supplies.

    Refused: the first axis, an axis or length known only at run time, very long transforms.
    """
    x, g = required(node.inputs[0]), required(cotangents[0])
    rank, opset = ctx.rank(x), ctx.graph.opset_imports.get("", _AXIS_IS_AN_INPUT)
    length = _constant(ctx, node, 1, "dft_length")
    if opset >= _AXIS_IS_AN_INPUT:
        given = _constant(ctx, node, 2, "its axis")
        axis = int(-2 if given is None else given) % rank
    else:
        axis = ctx.attribute(node, "axis", 1) % rank
    if axis == 0:
        raise ctx.unsupported(node, "it transforms the first axis: a window's answer would depend on its batch mates")
    parts = ctx.static_dims(node, x, rank - 1, "the real and imaginary part")[0]
    samples = ctx.static_dims(node, x, axis, "the transformed axis")[0]
    one = {"inverse": ctx.attribute(node, "inverse", 0), "onesided": ctx.attribute(node, "onesided", 0)}
    constants = {} if length is None else {"length": length}
    matrix = _answers(ctx, node, "DFT", [samples, parts], {**constants, "axis": np.int64(1)}, one, _AXIS_IS_AN_INPUT)
    # The axis next to the parts, both as one: then it is a product of matrices.
    order = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
    turned = ctx.op("Transpose", g, perm=order)
    bins = matrix.shape[1]
    lead = ctx.op("Shape", turned, start=0, end=-2)
    flat = ctx.op("Reshape", turned, ctx.op("Concat", lead, ctx.ints([bins]), axis=0))
    back = ctx.op("MatMul", flat, ctx.constant(matrix.T, ctx.dtype(x).numpy()))
    apart = ctx.op("Reshape", back, ctx.op("Concat", lead, ctx.ints([samples, parts]), axis=0))
    return [ctx.op("Transpose", apart, perm=[order.index(a) for a in range(rank)])]


def stft(ctx: Context, node: ir.Node, cotangents: Cotangents) -> Sequence[ir.Value | None]:
    """As for DFT: the frames of one signal, by its samples.

    Refused: a step, window or length known only at run time, very long signals.
    """
    x, g = required(node.inputs[0]), required(cotangents[0])
    samples, *parts = ctx.static_dims(node, x, 1, "the signal")
    if parts not in ([], [1], [2]):
        raise ctx.unsupported(node, f"a signal of shape {ctx.dims(x)}: expected (batch, samples), or with 1 or 2 parts")
    found = {
        "step": _constant(ctx, node, 1, "its frame_step"),
        "window": _constant(ctx, node, 2, "its window"),
        "length": _constant(ctx, node, 3, "its frame_length"),
    }
    one = {"onesided": ctx.attribute(node, "onesided", 1)}
    matrix = _answers(ctx, node, "STFT", [samples, *(parts or [1])], found, one, 17)
    flat = ctx.op("Flatten", g, axis=1)
    return [ctx.reshape_like(ctx.op("MatMul", flat, ctx.constant(matrix.T, ctx.dtype(x).numpy())), x)]


def _constant(ctx: Context, node: ir.Node, index: int, what: str) -> npt.NDArray[Any] | None:
    """Return an operand's elements; None where it is left out."""
    value = node.inputs[index] if len(node.inputs) > index else None
    known = ctx.value_of(value)
    if value is not None and known is None:
        raise ctx.unsupported(node, f"{what} is computed at run time, and a constant is needed")
    return known


def _answers(
    ctx: Context,
    node: ir.Node,
    op_type: str,
    shape: Sequence[int],
    constants: Mapping[str, npt.NDArray[Any] | np.int64 | None],
    attributes: dict[str, Any],
    opset: int,
) -> npt.NDArray[np.float64]:
    """Return the matrix (operand, result) of a transform: its answers to unit vectors."""
    size = int(np.prod(shape))
    order = ["length", "axis"] if op_type == "DFT" else ["step", "window", "length"]
    given = {name: np.asarray(constants[name]) for name in order if constants.get(name) is not None}
    names = [name if name in given else "" for name in order]
    one = helper.make_node(op_type, ["x", *names], ["y"], **attributes)
    info = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in "xy"]
    initial = [
        onnx.numpy_helper.from_array(v.astype(np.float64) if v.dtype.kind == "f" else v, name)
        for name, v in given.items()
    ]
    graph = helper.make_graph([one], "axis", info[:1], info[1:], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    evaluator: Any = ReferenceEvaluator(model)
    first = np.asarray(evaluator.run(None, {"x": np.zeros((1, *shape))})[0])
    if size * first.size > MOST_ELEMENTS:
        raise ctx.unsupported(node, f"a matrix of {size} × {first.size}: expected at most {MOST_ELEMENTS} elements")
    units = np.eye(size).reshape(size, *shape)
    rows: npt.NDArray[np.float64] = np.asarray(evaluator.run(None, {"x": units})[0], np.float64).reshape(size, -1)
    return rows


RULES: dict[str, Rule] = {"DFT": dft, "STFT": stft}
