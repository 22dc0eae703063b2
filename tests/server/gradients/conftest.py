"""The oracle of the standard rules: central differences in float64, on ONNX's own reference implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tonescope_server.gradients import differentiate

OPSET = 18
STEP = 1e-5
# Central differences of a smooth float64 function at this step err by about STEP² from the cubic term and 1e-16 / STEP
# from rounding; results here are of order one.
TOLERANCE = 1e-6

Array = npt.NDArray[Any]


def build(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int],
    constants: Mapping[str, Array] | None = None,
    *,
    dtype: int = TensorProto.DOUBLE,
    fixed: bool = True,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Make a model of one input ``x`` (batch first, then ``shape``) and one output ``y``."""
    dims: list[Any] = ["batch", *shape] if fixed else ["batch", *(f"d{i}" for i in range(len(shape)))]
    rank_free = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph(
        list(nodes),
        "case",
        [helper.make_tensor_value_info("x", dtype, dims)],
        [rank_free],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    if not model.graph.output[0].type.tensor_type.HasField("shape"):
        # ONNX infers nothing for some operators whose result has the operand's shape.
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", dtype, dims))
    onnx.checker.check_model(model)
    return model


def numeric(run: Callable[[Array], Array], x: Array, cotangent: Array) -> Array:
    """Return ``Jᵀ·cotangent`` at one sample by central differences, all perturbations in one batch."""
    size = x.size
    steps = np.eye(size).reshape(size, *x.shape[1:]) * STEP
    up, down = run(x + steps), run(x - steps)
    difference = (up - down).reshape(size, -1) / (2 * STEP)
    return (difference @ cotangent.ravel()).reshape(x.shape)


@pytest.fixture(scope="session")
def agrees() -> Callable[..., None]:
    """Return a check that a model's differentiated graph agrees with central differences."""

    def check(model: onnx.ModelProto, x: Array, *, portable: bool = False, tolerance: float = TOLERANCE) -> None:
        plain = ReferenceEvaluator(model)
        graph = differentiate(ir.from_proto(model), ["x"], portable=portable)
        proto = ir.to_proto(graph)
        onnx.checker.check_model(proto)
        differentiated = ReferenceEvaluator(proto)
        generator = np.random.default_rng(7)
        for sample in x:
            one = sample[None]
            y = plain.run(None, {"x": one})[0]
            cotangent = generator.standard_normal(y.shape)
            got = differentiated.run(["gradient:x"], {"x": one, "cotangent:y": cotangent})[0]
            want = numeric(lambda points: plain.run(None, {"x": points})[0], one, cotangent)
            np.testing.assert_allclose(got, want, atol=tolerance * max(1.0, np.abs(want).max()), rtol=0)

    return check


@pytest.fixture(scope="session")
def make_case() -> Callable[..., onnx.ModelProto]:
    """Return the builder of one-input, one-output models."""
    return build


@pytest.fixture(scope="session")
def agrees_exactly() -> Callable[..., None]:
    """Return a check of linear operators: the gradient equals the Jacobian without any tolerance.

    A linear operator's answers to unit vectors are its Jacobian, and on small integers float32 is exact.
    """

    def check(model: onnx.ModelProto, shape: Sequence[int], *, reference: bool = True) -> None:
        graph = ir.to_proto(differentiate(ir.from_proto(model), ["x"]))
        session = ort.InferenceSession(graph.SerializeToString())
        plain: Any = ReferenceEvaluator(model) if reference else ort.InferenceSession(model.SerializeToString())
        generator = np.random.default_rng(5)
        x = generator.integers(-3, 4, (2, *shape)).astype(np.float32)
        y = plain.run(None, {"x": x})[0]
        cotangent = generator.integers(-3, 4, y.shape).astype(np.float32)
        got = session.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]
        size = int(np.prod(shape))
        units = np.eye(size, dtype=np.float32).reshape(size, *shape)
        origin = plain.run(None, {"x": np.zeros((1, *shape), np.float32)})[0]
        columns = (plain.run(None, {"x": units})[0] - origin).reshape(size, -1)
        np.testing.assert_array_equal(got.reshape(2, -1), cotangent.reshape(2, -1) @ columns.T)

    return check
