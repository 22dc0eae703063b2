"""Models in half precision are differentiated as they are, as far as ONNX Runtime's kernels go."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server.gradients import differentiate


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape) * 0.5


NETWORKS = {
    "1-D convolutions": (
        [("Conv", "x w", "c", {"pads": [1, 1]}), ("Relu", "c", "r", {}), ("ReduceMean", "r axes", "m", {"keepdims": 0}),
         ("Gemm", "m v", "y", {})],
        {"w": random(4, 3, 3), "axes": np.array([2]), "v": random(4, 2, seed=1)}, (3, 8),
    ),
    "pools": (
        [("MaxPool", "x", "p", {"kernel_shape": [2], "strides": [2]}), ("Sigmoid", "p", "s", {}),
         ("Flatten", "s", "f", {}), ("Gemm", "f v", "y", {})],
        {"v": random(12, 2, seed=1)}, (3, 8),
    ),
    "attention": (
        [("MatMul", "x w", "q", {}), ("Transpose", "q", "k", {"perm": [0, 2, 1]}), ("MatMul", "q k", "l", {}),
         ("Softmax", "l", "a", {}), ("MatMul", "a x", "o", {}), ("LayerNormalization", "o s", "n", {}),
         ("Gelu", "n", "y", {})],
        {"w": random(8, 8), "s": random(8, seed=2)}, (3, 8),
    ),
}  # fmt: skip


def gradient(make_case, name, dtype, onnx_dtype):
    nodes, constants, shape = NETWORKS[name]
    typed = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in constants.items()}
    made = [helper.make_node(op, i.split(), [o], **a) for op, i, o, a in nodes]
    model = make_case(made, shape, typed, dtype=onnx_dtype, opset=20)
    graph = ir.to_proto(differentiate(ir.from_proto(model), ["x"]))
    session = ort.InferenceSession(graph.SerializeToString())
    x = random(2, *shape, seed=3).astype(dtype)
    y = next(o for o in session.get_outputs() if o.name == "y")
    cotangent = random(2, *(d for d in y.shape[1:]), seed=4).astype(dtype)
    return session.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_float16_gives_the_float32_gradient_to_its_own_precision(make_case, name):
    exact = gradient(make_case, name, np.float32, TensorProto.FLOAT)
    got = gradient(make_case, name, np.float16, TensorProto.FLOAT16)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got.astype(np.float32), exact, atol=2e-2 * np.abs(exact).max())


def test_float64_runs_where_onnx_runtime_has_the_kernels(make_case):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["a"]), helper.make_node("Tanh", ["a"], ["y"])]
    model = make_case(nodes, (5,), {"w": random(5, 3)})
    session = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    x = random(2, 5, seed=3)
    got = session.run(["gradient:x"], {"x": x, "cotangent:y": np.ones((2, 3))})[0]
    w = random(5, 3)
    np.testing.assert_allclose(got, (1 - np.tanh(x @ w) ** 2) @ w.T, rtol=1e-12)


def test_bfloat16_constants_are_typed(make_case):
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)
    model = make_case([node], (3,), dtype=TensorProto.BFLOAT16)
    graph = differentiate(ir.from_proto(model), ["x"])
    kinds = {v.const_value.dtype for v in graph.graph.initializers.values()}
    assert kinds == {ir.DataType.BFLOAT16}
    assert ir.DataType.BFLOAT16.numpy() == ml_dtypes.bfloat16
