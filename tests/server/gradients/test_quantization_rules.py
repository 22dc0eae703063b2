from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tonescope_server import Explainer
from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantised(name, out, scale="s", zero="z", **attributes):
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [f"{out}_q"], **attributes),
        helper.make_node("DequantizeLinear", [f"{out}_q", scale, zero], [out], **attributes),
    ]


def gradient(model, x, cotangent):
    session = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    return session.run(["gradient:x"], {"x": x, "cotangent:y": cotangent})[0]


def test_the_estimate_passes_where_a_value_is_not_saturated_and_stops_where_it_is(make_case):
    constants = {"s": np.float32(0.1), "z": np.int8(-128)}
    model = make_case(quantised("x", "y"), (5,), constants, dtype=TensorProto.FLOAT)
    x = np.array([[-3.0, -0.01, 0.04, 25.0, 26.0]], np.float32)
    got = gradient(model, x, np.full((1, 5), 2.0, np.float32))
    np.testing.assert_allclose(got, [[0, 0, 2, 2, 0]], rtol=1e-6)


def test_scales_per_axis_are_put_along_their_axis(make_case):
    constants = {"s": np.array([0.01, 1.0], np.float32), "z": np.zeros(2, np.int8)}
    model = make_case(quantised("x", "y", axis=1), (2, 3), constants, dtype=TensorProto.FLOAT)
    x = np.full((1, 2, 3), 5.0, np.float32)
    got = gradient(model, x, np.ones((1, 2, 3), np.float32))
    np.testing.assert_allclose(got[0], [[0, 0, 0], [1, 1, 1]], rtol=1e-6)


def test_a_quantised_network_keeps_the_direction_of_the_float_one(make_case):
    w1, w2 = random(8, 16), random(16, 3, seed=1)
    layers = [helper.make_node("Gemm", ["x", "w1"], ["a"]), helper.make_node("Relu", ["a"], ["r"])]
    exact = make_case(
        [*layers, helper.make_node("Gemm", ["r", "w2"], ["y"])], (8,), {"w1": w1, "w2": w2}, dtype=TensorProto.FLOAT
    )
    # The ReLU is gone: its values start at the zero point, so that saturation does its work.
    nodes = [
        *quantised("x", "xd", "sx", "zx"),
        helper.make_node("DequantizeLinear", ["w1q", "sw"], ["w1d"]),
        helper.make_node("Gemm", ["xd", "w1d"], ["a"]),
        *quantised("a", "r", "sa", "za"),
        helper.make_node("Gemm", ["r", "w2"], ["y"]),
    ]
    sw = np.float32(np.abs(w1).max() / 127)
    constants = {
        "w1q": np.round(w1 / sw).astype(np.int8), "sw": sw, "w2": w2,
        "sx": np.float32(4 / 127), "zx": np.int8(0), "sa": np.float32(16 / 255), "za": np.int8(-128),
    }  # fmt: skip
    model = make_case(nodes, (8,), constants, dtype=TensorProto.FLOAT)
    x, cotangent = random(20, 8, seed=3), random(20, 3, seed=4)
    got, want = gradient(model, x, cotangent), gradient(exact, x, cotangent)
    cosine = (got * want).sum() / np.linalg.norm(got) / np.linalg.norm(want)
    assert cosine > 0.97


def test_an_operator_on_quantised_values_is_refused_by_name(make_case):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["p"], name="the_pool", kernel_shape=[2]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    model = make_case(nodes, (2, 6), {"s": np.float32(0.1), "z": np.int8(0)}, dtype=TensorProto.FLOAT)
    with pytest.raises(UnsupportedOperatorError, match=r"MaxPool at node 'the_pool'.*quantised"):
        differentiate(ir.from_proto(model), ["x"])


def test_what_is_explained_by_an_estimate_says_so(make_case, tmp_path):
    nodes = [*quantised("x", "d"), helper.make_node("ReduceSum", ["d", "axes"], ["y"], keepdims=0)]
    constants = {"s": np.float32(0.1), "z": np.int8(0), "axes": np.array([1])}
    onnx.save(make_case(nodes, (3, 4), constants, dtype=TensorProto.FLOAT), tmp_path / "quantised.onnx")
    result = Explainer.load(tmp_path / "quantised.onnx").explain(random(2, 3, 4), target=1)
    assert [w.code for w in result.warnings] == ["STRAIGHT_THROUGH"]


def test_a_model_on_quantised_values_is_listed_as_not_differentiable(make_case, tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["p"], kernel_shape=[2]),
        helper.make_node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]
    model = make_case(nodes, (2, 6), {"s": np.float32(0.1), "z": np.int8(0)}, dtype=TensorProto.FLOAT)
    onnx.save(model, tmp_path / "integers.onnx")
    why = Explainer.load(tmp_path / "integers.onnx").applicability()
    assert "MaxPool" in why["saliency"]
    assert why["occlusion"] == ""
