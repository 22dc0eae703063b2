from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from tonescope_server import Explainer, Target
from tonescope_server.errors import UnsupportedOperatorError
from tonescope_server.gradients import differentiate

SOURCE = Path(__file__).resolve().parents[2] / "families.py"
SPEC = importlib.util.spec_from_file_location("tonescope_test_families_quantised", SOURCE)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)


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


def float_info(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def in_a_branch():
    """Quantised in both branches of an If on the input."""
    branches = [helper.make_graph(quantised("x", f"d{k}"), f"branch{k}", [], [float_info(f"d{k}")]) for k in range(2)]
    return [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["d"], then_branch=branches[0], else_branch=branches[1]),
    ]


def in_a_scan():
    """Quantised step by step."""
    body = helper.make_graph(quantised("step", "out"), "body", [float_info("step")], [float_info("out")])
    axes = {"scan_input_axes": [1], "scan_output_axes": [1]}
    return [helper.make_node("Scan", ["x"], ["d"], body=body, num_scan_inputs=1, **axes)]


def in_eight_bits():
    """Rounded to a floating type of eight bits, and back."""
    return [
        helper.make_node("Cast", ["x"], ["small"], to=TensorProto.FLOAT8E4M3FN),
        helper.make_node("Cast", ["small"], ["d"], to=TensorProto.FLOAT),
    ]


@pytest.mark.parametrize("nodes", [in_a_branch, in_a_scan, in_eight_bits], ids=lambda f: f.__name__)
def test_what_is_rounded_elsewhere_than_in_the_graph_itself_is_an_estimate_too(make_case, tmp_path, nodes):
    total = helper.make_node("ReduceSum", ["d", "axes"], ["y"], keepdims=0)
    constants = {"s": np.float32(0.1), "z": np.int8(0), "axes": np.array([1]), "zero": np.float32(0)}
    model = make_case([*nodes(), total], (3, 4), constants, dtype=TensorProto.FLOAT, opset=21)
    onnx.save(model, tmp_path / "rounded.onnx")
    result = Explainer.load(tmp_path / "rounded.onnx").explain(random(2, 3, 4), "saliency", target=1)
    assert np.abs(result.cells).max() > 0
    assert "STRAIGHT_THROUGH" in [w.code for w in result.warnings]


@pytest.mark.parametrize("kind", ["INT32", "FLOAT16", "DOUBLE"])
def test_a_cast_to_a_type_that_is_not_for_quantising_is_no_estimate(make_case, tmp_path, kind):
    nodes = [
        helper.make_node("Cast", ["x"], ["small"], to=getattr(TensorProto, kind)),
        helper.make_node("Cast", ["small"], ["d"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "d"], ["both"]),
        helper.make_node("ReduceSum", ["both", "axes"], ["y"], keepdims=0),
    ]
    model = make_case(nodes, (3, 4), {"axes": np.array([1])}, dtype=TensorProto.FLOAT, opset=21)
    onnx.save(model, tmp_path / "cast.onnx")
    result = Explainer.load(tmp_path / "cast.onnx").explain(random(2, 3, 4), "saliency", target=1)
    assert "STRAIGHT_THROUGH" not in [w.code for w in result.warnings]


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


class Windows(CalibrationDataReader):
    """What the quantiser learns its ranges from."""

    def __init__(self, shape, count=48):
        self._left = iter([{"x": random(1, *shape, seed=k)} for k in range(count)])

    def get_next(self):
        return next(self._left, None)


# Sizes as they are in use: of a few units, one whose bend lies on the other side after rounding decides too much.
QUANTISED = {
    "count_net": (lambda: families.count_net(56, 20, (32, 32, 48)), (56, 20)),
    "tcn": (lambda: families.tcn(24, 16, 24), (24, 16)),
    "transformer": (families.transformer, (6, 10)),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Explainers of a network and of what ONNX Runtime's quantiser makes of it, with windows."""
    folder, made = tmp_path_factory.mktemp("quantised"), {}

    def pair(name):
        if name not in made:
            build, shape = QUANTISED[name]
            exact, rounded = folder / f"{name}.onnx", folder / f"{name}.int8.onnx"
            onnx.save(build(), exact)
            quantize_static(exact, rounded, Windows(shape), quant_format=QuantFormat.QDQ, per_channel=True)
            made[name] = Explainer.load(exact), Explainer.load(rounded), random(16, *shape, seed=99)
        return made[name]

    return pair


@pytest.mark.parametrize("name", QUANTISED)
def test_the_gradient_of_a_quantised_network_points_where_the_float_one_does(pairs, name):
    exact, rounded, x = pairs(name)
    want, got = (e.gradient(x, Target.element(1)).astype(np.float64) for e in (exact, rounded))
    assert (got * want).sum() / np.linalg.norm(got) / np.linalg.norm(want) >= 0.97
    codes = [w.code for w in rounded.explain(x, "input_x_gradient", Target.element(1)).warnings]
    assert "STRAIGHT_THROUGH" in codes
    assert "STRAIGHT_THROUGH" not in [w.code for w in exact.explain(x, target=1).warnings]


@pytest.mark.parametrize("name", QUANTISED)
def test_deep_lift_of_a_quantised_network_is_complete(pairs, name):
    """No estimate there: between two ends rounding and saturation have a quotient of differences like anything else."""
    _, rounded, x = pairs(name)
    found = rounded.explain(x, "deep_lift", Target.element(1))
    mass = np.abs(found.cells).reshape(len(x), -1).sum(1)
    assert (np.abs(found.convergence_delta) <= 2e-6 * mass).all()
