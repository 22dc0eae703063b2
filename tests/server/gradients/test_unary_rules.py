from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from scipy.special import erf

from tonescope_server.gradients import differentiate

ANYWHERE = {
    "Neg": {},
    "Abs": {},
    "Exp": {},
    "Reciprocal": {},
    "Sin": {},
    "Cos": {},
    "Elu": {"alpha": 0.7},
    "Selu": {},
    "Celu": {"alpha": 0.6},
    "Softplus": {},
    "Softsign": {},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "HardSwish": {},
    "Mish": {},
    "ThresholdedRelu": {"alpha": 0.5},
}


def away_from_kinks(shape, seed=0):
    """Values between −4 and 4, none near the bends of any function here (0, ±0.5, ±3, −4/3, 2)."""
    x = np.random.default_rng(seed).uniform(-4, 4, shape)
    for bend in (0.0, 0.5, 3.0, -3.0, -4 / 3, 2.0, -0.5):
        x = np.where(np.abs(x - bend) < 0.02, bend + 0.05, x)
    return x


@pytest.mark.parametrize("op_type", ANYWHERE)
def test_a_function_of_one_element_agrees(agrees, make_case, op_type):
    node = helper.make_node(op_type, ["x"], ["y"], **ANYWHERE[op_type])
    agrees(make_case([node], (3, 5), opset=20), away_from_kinks((2, 3, 5)))


@pytest.mark.parametrize("op_type", ["Log", "Sqrt"])
def test_a_function_of_a_positive_element_agrees(agrees, make_case, op_type):
    agrees(make_case([helper.make_node(op_type, ["x"], ["y"])], (3, 5)), np.abs(away_from_kinks((2, 3, 5))) + 0.1)


def test_gelu_agrees_in_its_tanh_form(agrees, make_case):
    node = helper.make_node("Gelu", ["x"], ["y"], approximate="tanh")
    agrees(make_case([node], (3, 5), opset=20), away_from_kinks((2, 3, 5)))


@pytest.mark.parametrize(
    ("op_type", "function"), [("Erf", erf), ("Gelu", lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))))]
)
def test_what_is_made_of_erf_agrees_with_scipy(make_case, op_type, function):
    # ONNX's reference evaluator has erf in float32 only, too coarse for central differences.
    model = make_case([helper.make_node(op_type, ["x"], ["y"])], (3, 5), opset=20)
    run = ReferenceEvaluator(ir.to_proto(differentiate(ir.from_proto(model), ["x"])))
    x = away_from_kinks((1, 3, 5))
    got = run.run(["gradient:x"], {"x": x, "cotangent:y": np.ones_like(x)})[0]
    want = (function(x + 1e-5) - function(x - 1e-5)) / 2e-5
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("bounds", [("low", "high"), ("low", ""), ("", "high")])
def test_clip_agrees_with_either_bound(agrees, make_case, bounds):
    node = helper.make_node("Clip", ["x", *bounds], ["y"])
    constants = {"low": np.array(-1.0), "high": np.array(1.5)}
    agrees(make_case([node], (3, 5), {k: v for k, v in constants.items() if k in bounds}), away_from_kinks((2, 3, 5)))


def test_clip_passes_the_gradient_on_at_its_bounds(make_case):
    constants = {"low": np.array(-1.0), "high": np.array(1.5)}
    model = make_case([helper.make_node("Clip", ["x", "low", "high"], ["y"])], (5,), constants)
    run = ReferenceEvaluator(ir.to_proto(differentiate(ir.from_proto(model), ["x"])))
    x = np.array([[-1.25, -1.0, 0.0, 1.5, 1.75]])
    got = run.run(["gradient:x"], {"x": x, "cotangent:y": np.full_like(x, 3.0)})[0]
    np.testing.assert_array_equal(got, [[0, 3, 3, 3, 0]])


@pytest.mark.parametrize("slope", [(5,), (3, 1), (1,)])
def test_prelu_agrees_with_a_broadcast_slope(agrees, make_case, slope):
    weights = np.random.default_rng(1).uniform(0.1, 0.9, slope)
    agrees(
        make_case([helper.make_node("PRelu", ["x", "s"], ["y"])], (3, 5), {"s": weights}), away_from_kinks((2, 3, 5))
    )


@pytest.mark.parametrize("which", ["base", "exponent", "both"])
def test_pow_agrees(agrees, make_case, which):
    names = {"base": ["x", "c"], "exponent": ["c", "x"], "both": ["x", "x"]}[which]
    constants = {} if which == "both" else {"c": np.array([1.5, 2.0, 0.5, 3.0, 1.0])}
    node = helper.make_node("Pow", names, ["y"])
    agrees(make_case([node], (3, 5), constants), np.random.default_rng(0).uniform(0.3, 2, (2, 3, 5)))


@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum", "Mean"])
def test_an_operator_of_several_operands_agrees(agrees, make_case, op_type):
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node(op_type, ["x", "n", "c"], ["y"])]
    agrees(make_case(nodes, (3, 5), {"c": np.linspace(-1, 1, 5)}), away_from_kinks((2, 3, 5), 3))


def test_equal_operands_of_a_maximum_share_the_cotangent():
    info = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, ["b", 2]) for n in ("x", "z", "y")]
    graph = helper.make_graph([helper.make_node("Max", ["x", "z"], ["y"])], "g", info[:2], info[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    run = ReferenceEvaluator(ir.to_proto(differentiate(ir.from_proto(model), ["x", "z"])))
    one = np.array([[1.0, 2.0]])
    by_x, by_z = run.run(
        ["gradient:x", "gradient:z"], {"x": one, "z": np.array([[1.0, 0.0]]), "cotangent:y": np.ones((1, 2))}
    )
    np.testing.assert_array_equal(by_x, [[0.5, 1.0]])
    np.testing.assert_array_equal(by_z, [[0.5, 0.0]])


@pytest.mark.parametrize("names", [["c", "x", "n"], ["c", "n", "k"], ["c", "k", "x"]])
def test_where_gives_the_cotangent_to_the_operand_chosen(agrees, make_case, names):
    nodes = [helper.make_node("Sigmoid", ["x"], ["n"]), helper.make_node("Where", names, ["y"])]
    constants = {"c": np.array([[True, False, True, False, True]]), "k": np.ones((3, 5))}
    agrees(make_case(nodes, (3, 5), constants), away_from_kinks((2, 3, 5)))


@pytest.mark.parametrize("names", [["x", "c"], ["c", "x"]])
def test_mod_agrees(agrees, make_case, names):
    node = helper.make_node("Mod", names, ["y"], fmod=1)
    x = np.random.default_rng(5).uniform(0.6, 0.9, (2, 3, 5))
    agrees(make_case([node], (3, 5), {"c": np.array([1.0, 2.5, 0.4, 1.7, 2.2])}), x)
