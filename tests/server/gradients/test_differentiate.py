"""The walk: which nodes it visits, what it leaves alone, and what it says when it cannot."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tonescope_server.errors import UnknownTensorError, UnsupportedOperatorError
from tonescope_server.gradients import STANDARD, RuleSet, differentiate, missing_rules

STEP = 1e-5
TOLERANCE = 1e-6  # central differences in float64 of functions of order one, see conftest.py


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


W, V, U = random(4, 5), random(5, 5, seed=1), random(5, 3, seed=2)


@pytest.fixture
def chain(make_case):
    """x → a = x·W → h = tanh a → b = h·V → s = b + h → y = s·U: ``h`` is used twice."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"], name="first"),
        helper.make_node("Tanh", ["a"], ["h"], name="squash"),
        helper.make_node("MatMul", ["h", "V"], ["b"], name="second"),
        helper.make_node("Add", ["b", "h"], ["s"], name="skip"),
        helper.make_node("MatMul", ["s", "U"], ["y"], name="last"),
    ]
    return make_case(nodes, (4,), {"W": W, "V": V, "U": U})


def gradients(model, names, x, cotangents, **options):
    graph = differentiate(ir.from_proto(model), names, **options)
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto)
    return ReferenceEvaluator(proto).run([f"gradient:{n}" for n in names], {"x": x, **cotangents})


def backward_nodes(model, names):
    """Count what the backward pass added, by operator."""
    graph = differentiate(ir.from_proto(model), names)
    before = len(model.graph.node)
    return [n.op_type for n in list(graph.graph)[before:]]


def test_several_cotangents_share_one_forward_pass(chain):
    x, g = random(6, 4, seed=3), random(3, 6, 3, seed=4)
    by_x, by_h = gradients(chain, ["x", "h"], x, {"cotangent:y": g}, seeds=3)
    for got_x, got_h, one in zip(by_x, by_h, g, strict=True):
        want_x, want_h = gradients(chain, ["x", "h"], x, {"cotangent:y": one})
        np.testing.assert_allclose(got_x, want_x, rtol=1e-12)
        np.testing.assert_allclose(got_h, want_h, rtol=1e-12)
    kinds = Counter(n.op_type for n in differentiate(ir.from_proto(chain), ["x"], seeds=3).graph)
    assert kinds["Tanh"] == 1
    assert kinds["MatMul"] == 3 + 3 * 3


def test_one_cotangent_may_be_asked_for_with_the_axis_of_several(chain):
    x, g = random(6, 4, seed=3), random(6, 3, seed=4)
    (want,) = gradients(chain, ["x"], x, {"cotangent:y": g})
    (got,) = gradients(chain, ["x"], x, {"cotangent:y": g[None]}, seeds=1)
    np.testing.assert_array_equal(got, want[None])


def test_taps_agree_with_the_chain_rule(chain):
    x, g = random(6, 4, seed=3), random(6, 3, seed=4)
    by_x, by_a, by_h, by_s = gradients(chain, ["x", "a", "h", "s"], x, {"cotangent:y": g})
    h = np.tanh(x @ W)
    want_s = g @ U.T
    want_h = want_s @ V.T + want_s
    want_a = want_h * (1 - h**2)
    for got, want in ((by_s, want_s), (by_h, want_h), (by_a, want_a), (by_x, want_a @ W.T)):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_several_taps_at_once_give_what_each_gives_alone(chain):
    x, g = random(2, 4, seed=3), {"cotangent:y": random(2, 3, seed=4)}
    together = gradients(chain, ["h", "x", "b"], x, g)
    for name, got in zip(["h", "x", "b"], together, strict=True):
        np.testing.assert_array_equal(got, gradients(chain, [name], x, g)[0])


def test_nodes_upstream_of_every_tap_are_skipped(chain):
    assert backward_nodes(chain, ["s"]).count("MatMul") == 1
    assert backward_nodes(chain, ["h"]).count("MatMul") == 2
    assert backward_nodes(chain, ["x"]).count("MatMul") == 3
    assert backward_nodes(chain, ["x", "h"]).count("MatMul") == 3
    assert "Mul" not in backward_nodes(chain, ["h"])  # the derivative of tanh


def test_branches_that_do_not_lead_to_a_tap_are_skipped(make_case):
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("MatMul", ["x", "W"], ["other"]),
        helper.make_node("Mul", ["a", "other"], ["y"]),
    ]
    model = make_case(nodes, (4,), {"W": W})
    assert backward_nodes(model, ["a"]).count("MatMul") == 0
    assert backward_nodes(model, ["x"]).count("MatMul") == 2


def test_a_tap_at_an_output_gives_its_cotangent(chain):
    g = random(2, 3, seed=4)
    (got,) = gradients(chain, ["y"], random(2, 4), {"cotangent:y": g})
    np.testing.assert_array_equal(got, g)


def test_a_value_that_nothing_depends_on_has_a_zero_gradient(make_case):
    nodes = [helper.make_node("Relu", ["x"], ["aside"]), helper.make_node("Mul", ["x", "x"], ["y"])]
    model = make_case(nodes, (4,))
    (got,) = gradients(model, ["aside"], random(3, 4), {"cotangent:y": np.ones((3, 4))})
    np.testing.assert_array_equal(got, np.zeros((3, 4)))


@pytest.fixture
def two_headed():
    nodes = [
        helper.make_node("Tanh", ["x"], ["h"]),
        helper.make_node("MatMul", ["h", "U"], ["first"]),
        helper.make_node("Mul", ["h", "first"], ["second"]),
        helper.make_node("Shape", ["x"], ["size"]),
    ]
    dims = {"x": ["batch", 3], "first": ["batch", 3], "second": ["batch", 3]}
    info = {k: helper.make_tensor_value_info(k, TensorProto.DOUBLE, d) for k, d in dims.items()}
    size = helper.make_tensor_value_info("size", TensorProto.INT64, [2])
    graph = helper.make_graph(
        nodes,
        "two",
        [info["x"]],
        [info["first"], info["second"], size],
        [numpy_helper.from_array(random(3, 3, seed=2), "U")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_several_outputs_are_pulled_back_together(two_headed):
    plain = ReferenceEvaluator(two_headed)
    x, first, second = random(1, 3, seed=5), random(1, 3, seed=6), random(1, 3, seed=7)
    (got,) = gradients(two_headed, ["x"], x, {"cotangent:first": first, "cotangent:second": second})

    def scalar(points):
        a, b, _ = plain.run(None, {"x": points})
        return (a * first + b * second).sum(axis=1)

    steps = np.eye(3) * STEP
    want = (scalar(x + steps) - scalar(x - steps)) / (2 * STEP)
    np.testing.assert_allclose(got[0], want, atol=TOLERANCE)


def test_only_the_outputs_asked_for_are_differentiated(two_headed):
    graph = differentiate(ir.from_proto(two_headed), ["x"], outputs=["first"])
    assert [v.name for v in graph.graph.inputs] == ["x", "cotangent:first"]
    every = differentiate(ir.from_proto(two_headed), ["x"])
    assert [v.name for v in every.graph.inputs] == ["x", "cotangent:first", "cotangent:second"]


@pytest.mark.parametrize("name", ["third", "size"])
def test_an_output_that_is_not_there_or_not_float_is_refused(two_headed, name):
    with pytest.raises(UnknownTensorError, match=f"'{name}'"):
        differentiate(ir.from_proto(two_headed), ["x"], outputs=[name])


def test_the_callers_model_is_not_changed(make_case):
    # A max pool: its rule asks the forward node for one more output.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[2], strides=[2]),
        helper.make_node("ReduceMean", ["m", "axes"], ["y"], keepdims=0),
    ]
    model = ir.from_proto(make_case(nodes, (3, 8), {"w": random(4, 3, 3), "axes": np.array([2])}))
    before = ir.to_proto(model).SerializeToString()
    initializers = {name: id(value) for name, value in model.graph.initializers.items()}
    differentiate(model, ["x", "c"])
    assert ir.to_proto(model).SerializeToString() == before
    assert {name: id(value) for name, value in model.graph.initializers.items()} == initializers


def test_every_result_keeps_its_name_and_shape(chain):
    graph = differentiate(ir.from_proto(chain), ["x", "h"])
    names = {v.name: [str(d) for d in v.shape] for v in graph.graph.outputs}
    assert list(names) == ["y", "gradient:x", "gradient:h"]
    assert names["gradient:x"] == ["batch", "4"]
    assert names["gradient:h"] == ["batch", "5"]


def test_a_missing_rule_names_operator_node_and_rule_set(chain):
    poor = RuleSet("poor", {k: v for k, v in STANDARD.rules.items() if k != "Tanh"})
    with pytest.raises(UnsupportedOperatorError, match=r"rule set 'poor' has no rule for operator Tanh .*'squash'"):
        differentiate(ir.from_proto(chain), ["x"], poor)


def test_many_missing_rules_are_counted(chain):
    with pytest.raises(UnsupportedOperatorError, match=r"and 1 more$"):
        differentiate(ir.from_proto(chain), ["x"], RuleSet("empty", {}))


def test_a_missing_rule_upstream_of_the_tap_does_no_harm(chain):
    poor = RuleSet("poor", {k: v for k, v in STANDARD.rules.items() if k != "Tanh"})
    x, g = random(2, 4), {"cotangent:y": random(2, 3, seed=4)}
    np.testing.assert_array_equal(*(gradients(chain, ["h"], x, g, rule_set=r)[0] for r in (poor, STANDARD)))


def test_missing_rules_lists_nodes_on_the_way_only(chain):
    graph = ir.from_proto(chain).graph
    values = {v.name: v for n in graph for v in n.outputs}
    poor = RuleSet("poor", {k: v for k, v in STANDARD.rules.items() if k not in ("Tanh", "MatMul")})
    assert [n.name for n in missing_rules(graph, graph.outputs, list(graph.inputs), poor)] == [
        "first",
        "squash",
        "second",
        "last",
    ]
    assert [n.name for n in missing_rules(graph, graph.outputs, [values["b"]], poor)] == ["last"]
    assert [n.name for n in missing_rules(graph, [values["h"]], list(graph.inputs), poor)] == ["first", "squash"]


def test_an_unknown_tensor_is_refused_with_some_that_there_are(chain):
    with pytest.raises(UnknownTensorError, match=r"no value named 'hidden' .* among them x, a, h"):
        differentiate(ir.from_proto(chain), ["hidden"])


def test_integer_paths_carry_no_gradient(make_case):
    # floor(x) and what is computed from it have derivative zero almost everywhere; the other factor has not.
    nodes = [helper.make_node("Floor", ["x"], ["f"]), helper.make_node("Mul", ["x", "f"], ["y"])]
    x = np.array([[1.5, 2.25, -0.5]])
    (got,) = gradients(make_case(nodes, (3,)), ["x"], x, {"cotangent:y": np.ones((1, 3))})
    np.testing.assert_array_equal(got, np.floor(x))


def test_the_batch_size_is_free_at_run_time(chain):
    proto = ir.to_proto(differentiate(ir.from_proto(chain), ["x"]))
    evaluator = ReferenceEvaluator(proto)
    for batch in (1, 2, 7):
        x, g = random(batch, 4), random(batch, 3)
        assert evaluator.run(["gradient:x"], {"x": x, "cotangent:y": g})[0].shape == (batch, 4)


@pytest.mark.parametrize("portable", [False, True])
def test_the_fast_and_the_portable_forms_agree_on_onnx_runtime(make_case, portable):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1], strides=[2]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weight = random(4, 3, 3).astype(np.float32)
    model = make_case(nodes, (3, 9), {"w": weight}, dtype=TensorProto.FLOAT)
    graph = differentiate(ir.from_proto(model), ["x"], portable=portable)
    kinds = {n.op_type for n in graph.graph}
    assert ("HardSigmoid" in kinds) is not portable
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    x, g = random(2, 3, 9).astype(np.float32), random(2, 4, 5, seed=1).astype(np.float32)
    y, got = session.run(["y", "gradient:x"], {"x": x, "cotangent:y": g})
    padded = np.zeros((2, 3, 11))
    for i in range(5):
        padded[:, :, 2 * i : 2 * i + 3] += np.einsum("bm,mck->bck", (g * (y > 0))[:, :, i], weight)
    np.testing.assert_allclose(got, padded[:, :, 1:-1], atol=1e-5)
