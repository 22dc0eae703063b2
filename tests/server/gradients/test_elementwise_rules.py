from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tonescope_server.gradients import differentiate

UNARY = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.2},
    "Sigmoid": {},
    "Tanh": {},
    "Identity": {},
    "Softmax": {"axis": 1},
    "LogSoftmax": {"axis": -1},
}


def away_from_kinks(shape, seed=0):
    """Random values whose magnitude stays far above the step of the central differences."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return np.sign(x) * (np.abs(x) + 0.05)


@pytest.mark.parametrize("op_type", UNARY)
@pytest.mark.parametrize("portable", [False, True])
def test_a_unary_rule_agrees_with_central_differences(agrees, make_case, op_type, portable):
    node = helper.make_node(op_type, ["x"], ["y"], **UNARY[op_type])
    agrees(make_case([node], (3, 4)), away_from_kinks((2, 3, 4)), portable=portable)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("other", [(3, 4), (4,), (1, 4), (3, 1), (), (1, 3, 4)])
@pytest.mark.parametrize("swapped", [False, True])
def test_arithmetic_with_a_broadcast_constant_agrees(agrees, make_case, op_type, other, swapped):
    names = ["c", "x"] if swapped else ["x", "c"]
    node = helper.make_node(op_type, names, ["y"])
    agrees(make_case([node], (3, 4), {"c": away_from_kinks(other, 1)}), away_from_kinks((2, 3, 4)))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_both_operands_of_one_operation_get_their_cotangent(agrees, make_case, op_type):
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["a"]),
        helper.make_node("ReduceSum", ["x", "axes"], ["b"], keepdims=1),
        helper.make_node(op_type, ["a", "b"], ["y"]),
    ]
    model = make_case(nodes, (3, 4), {"axes": np.array([2])})
    agrees(model, np.abs(away_from_kinks((2, 3, 4))) + 0.5)


def test_an_operand_broadcast_to_more_axes_is_summed_back(agrees, make_case):
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["row"], keepdims=0),
        helper.make_node("Reshape", ["row", "shape"], ["flat"]),
        helper.make_node("Mul", ["x", "flat"], ["y"]),
    ]
    constants = {"axes": np.array([1]), "shape": np.array([-1, 1, 4])}
    agrees(make_case(nodes, (3, 4), constants), away_from_kinks((2, 3, 4)))


def test_sizes_known_only_at_run_time_are_unbroadcast_too(agrees, make_case):
    nodes = [
        helper.make_node("ReduceMax", ["c", "axes"], ["peak"], keepdims=1),
        helper.make_node("Mul", ["x", "peak"], ["y"]),
    ]
    model = make_case(nodes, (3, 4), {"c": away_from_kinks((1, 3, 4)), "axes": np.array([2])}, fixed=False)
    agrees(model, away_from_kinks((2, 3, 4)))


def test_a_cast_between_floating_types_passes_the_cotangent_back():
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)]
    info = [helper.make_tensor_value_info(n, t, ["batch", 3]) for n, t in (("x", 1), ("y", TensorProto.DOUBLE))]
    graph = helper.make_graph(nodes, "cast", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    graph = differentiate(ir.from_proto(model), ["x"])
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    cotangent = np.array([[1.0, -2.0, 3.0]])
    got = session.run(["gradient:x"], {"x": np.zeros((1, 3), np.float32), "cotangent:y": cotangent})[0]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, cotangent)


def test_nothing_flows_through_integers(make_case):
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.DOUBLE),
    ]
    graph = differentiate(ir.from_proto(make_case(nodes, (3,))), ["x"])
    got = ReferenceEvaluator(ir.to_proto(graph)).run(
        ["gradient:x"], {"x": np.array([[1.2, 2.7, -3.1]]), "cotangent:y": np.ones((1, 3))}
    )[0]
    np.testing.assert_array_equal(got, 0)


@pytest.mark.parametrize("portable", [False, True])
def test_the_derivative_of_a_relu_at_zero_is_zero(portable):
    node = helper.make_node("Relu", ["x"], ["y"])
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.checker.check_model(model)
    graph = differentiate(ir.from_proto(model), ["x"], portable=portable)
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    x = np.array([[-1.0, 0.0, 1e-30, 5.0]], np.float32)
    got = session.run(["gradient:x"], {"x": x, "cotangent:y": np.full((1, 4), 2.0, np.float32)})[0]
    np.testing.assert_array_equal(got, [[0, 0, 2, 2]])


@pytest.mark.parametrize("constant", [True, False])
def test_a_power_of_zero_is_flat_at_zero_too(make_case, constant):
    exponents = np.array([0, 1, 2, 3], np.float32)
    if constant:
        model = make_case([helper.make_node("Pow", ["x", "e"], ["y"])], (4,), {"e": exponents}, dtype=TensorProto.FLOAT)
    else:
        nodes = [helper.make_node("Mul", ["x", "n"], ["z"]), helper.make_node("Add", ["z", "e"], ["f"]),
                 helper.make_node("Pow", ["x", "f"], ["y"])]  # fmt: skip
        constants = {"e": exponents, "n": np.zeros(4, np.float32)}
        model = make_case(nodes, (4,), constants, dtype=TensorProto.FLOAT)
    session = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    feeds = {"x": np.zeros((1, 4), np.float32), "cotangent:y": np.ones((1, 4), np.float32)}
    (got,) = session.run(["gradient:x"], feeds)
    np.testing.assert_array_equal(got, [[0, 1, 0, 0]])


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin", "ReduceProd"])
def test_a_reduction_over_no_axes_hands_back_what_it_got(make_case, op_type):
    node = helper.make_node(op_type, ["x"], ["y"], noop_with_empty_axes=1)
    model = make_case([node], (3, 4), dtype=TensorProto.FLOAT)
    session = ort.InferenceSession(ir.to_proto(differentiate(ir.from_proto(model), ["x"])).SerializeToString())
    x = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    (got,) = session.run(["gradient:x"], {"x": x, "cotangent:y": x})
    np.testing.assert_array_equal(got, x)
