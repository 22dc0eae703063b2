"""The input's axes: a symbolic first axis called "batch", and fixed sizes for the others.

Exporters often fix the batch at 1, in the input and in the target shapes of Reshape nodes. Both are
loosened, and :func:`loosened_graph_is_equivalent` proves on numbers that the graph still computes each
window by itself. Whether a graph with an open batch does so is asked in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as ort_state
from onnx import TensorShapeProto, ValueInfoProto

from tonescope_server.errors import ManifestError

BATCH = "batch"
_TOLERANCE = 1e-4  # between one batch of three and three batches of one, in float32, relative to the largest output
# Between a window beside another and the same beside itself: batches of one size, for which the kernels are the same
# and sum in the same order. What is left is a few roundings, should one sum across windows' rows.
_BESIDE = 1e-6


_RUNTIME_ERRORS = (
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,
    ValueError,
)
"""What the runtime raises at a graph it cannot run: its errors have no common root."""


def float_inputs(proto: onnx.ModelProto) -> list[ValueInfoProto]:
    """Return the graph inputs of floating point that need a value; every one is float32 by then."""
    return [value for value in required_inputs(proto) if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]


def required_inputs(proto: onnx.ModelProto) -> list[ValueInfoProto]:
    """Return the graph inputs that have no initializer."""
    initialized = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in initialized]


def dims(value: ValueInfoProto) -> list[TensorShapeProto.Dimension]:
    """Return a value's axes."""
    return list(value.type.tensor_type.shape.dim)


def set_sizes(value: ValueInfoProto, shape: Sequence[int], where: str) -> None:
    """Give every axis but the first a size: the graph's own, or where it is open the manifest's.

    Args:
        value: the explained input, changed in place.
        shape: the input's shape without the batch axis; empty means the graph's own.
        where: opens every message.

    Raises:
        ManifestError: the shape contradicts the graph, an axis is open and nothing says its size, or there is
            no batch axis.
    """
    axes = dims(value)
    got = f"({', '.join(axis.dim_param or str(axis.dim_value or '?') for axis in axes)})"
    wanted = f"(batch, {', '.join(map(str, shape))})"
    if len(axes) < 2 or (shape and len(shape) != len(axes) - 1):
        expected = wanted if shape else "a batch axis and at least one more"
        raise ManifestError(f'{where}: input "{value.name}": expected {expected}, got {got}')
    for position, axis in enumerate(axes[1:]):
        size = shape[position] if shape else axis.dim_value
        if not size:
            raise ManifestError(
                f'{where}: input "{value.name}" {got}: axis {position + 1} is open: state [input] shape in the manifest'
            )
        if axis.dim_value and axis.dim_value != size:
            raise ManifestError(f"{where}: input.shape: expected {got} as in the graph, got {wanted}")
        axis.dim_value = size


def open_batch(proto: onnx.ModelProto, value: ValueInfoProto) -> int:
    """Call the first axis of the explained input "batch", and let its graph follow.

    Returns:
        The batch that the graph was fixed to, or 0 where the first axis was open already.
    """
    axis = dims(value)[0]
    fixed = int(axis.dim_value)
    if fixed:
        _forget_shapes(proto)
        _loosen_reshapes(proto, fixed)
    else:
        _rename(proto, axis.dim_param, BATCH)
    axis.dim_param = BATCH
    return fixed


def _values(proto: onnx.ModelProto) -> list[ValueInfoProto]:
    return [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]


def _rename(proto: onnx.ModelProto, old: str, new: str) -> None:
    """Replace a symbolic size wherever the graph mentions it."""
    if not old or old == new:
        return
    for value in _values(proto):
        for axis in dims(value):
            if axis.dim_param == old:
                axis.dim_param = new


def _forget_shapes(proto: onnx.ModelProto) -> None:
    """Drop every inferred shape: they all say the fixed batch. Shape inference finds them anew."""
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        for axis in dims(value)[:1]:
            axis.Clear()


def _loosen_reshapes(proto: onnx.ModelProto, fixed: int) -> None:
    """Let every Reshape whose target starts with the fixed batch keep its input's first axis instead.

    The new target has 0 in front, "as in the input", which is also right where the target holds a −1.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = attribute.t
    for number, node in enumerate(proto.graph.node):
        if node.op_type != "Reshape" or node.domain or node.input[1] not in constants:
            continue
        target = onnx.numpy_helper.to_array(constants[node.input[1]]).copy()
        if target.size < 2 or target[0] != fixed or any(a.name == "allowzero" and a.i for a in node.attribute):
            continue
        target[0] = 0
        name = f"{node.input[1]}__any_batch_{number}"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(target, name))
        node.input[1] = name


def loosened_graph_is_equivalent(
    proto: onnx.ModelProto, value: ValueInfoProto, original: onnx.ModelProto, fixed: int
) -> bool:
    """Run both and say whether the loosened graph answers a long batch as the original answers its parts."""
    shape = tuple(axis.dim_value for axis in dims(value)[1:])
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    x = np.random.default_rng(0).standard_normal((3 * fixed, *shape)).astype(dtype)
    try:
        whole = _run(proto, value.name, [x])[0]
        parts = _run(original, value.name, [x[i : i + fixed] for i in range(0, 3 * fixed, fixed)])
    except _RUNTIME_ERRORS:
        return False
    joined = [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
    if fixed == 1 and is_coupled(proto, value):
        return False
    return all(_close(a, b) for a, b in zip(whole, joined, strict=True))


def is_coupled(proto: onnx.ModelProto, value: ValueInfoProto) -> bool:
    """Run two windows together, alone, and each beside itself, and say whether what comes of one depends on the other.

    Beside itself shows what one window has of the other, to a few roundings, and alone what depends on how many they
    are, to what kernels for batches of other sizes may make of it.
    Normalisations over the batch do that, differences from its mean, and choices of one branch for all windows: of the
    last, which two windows need not show, ``load_onnx`` asks the graph.
    """
    shape = tuple(axis.dim_value for axis in dims(value)[1:])
    random = np.random.default_rng(0)
    x = (random.standard_normal((2, *shape)) * np.array([1.0, 3.0]).reshape(2, *[1] * len(shape))).astype(np.float32)
    try:
        batches = [x, x[:1], x[1:], x[[0, 0]], x[[1, 1]]]
        runs = _run(proto, value.name, batches, optimised=False)
    except _RUNTIME_ERRORS:
        return False  # what cannot be run on such windows is told where it is run
    by_window = [parts for parts in zip(*runs, strict=True) if parts[0].shape[:1] == (2,) and _finite(parts)]
    for both, *alone, first, second in by_window:
        beside_itself = np.concatenate([first[:1], second[1:]])
        if not _close(both, np.concatenate(alone)) or not _close(both, beside_itself, _BESIDE):
            return True
    return False


def _finite(arrays: Sequence[np.ndarray]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _close(a: np.ndarray, b: np.ndarray, tolerance: float = _TOLERANCE) -> bool:
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= tolerance * max(1.0, float(np.abs(b).max(initial=0)))))


def _run(
    proto: onnx.ModelProto, name: str, batches: list[np.ndarray], *, optimised: bool = True
) -> list[list[np.ndarray]]:
    options = ort.SessionOptions()
    if not optimised:  # for a few runs that takes longer than they do
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, {name: batch}) for batch in batches]
