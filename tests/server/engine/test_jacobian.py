"""Jacobians: what they hold is what one gradient for each target gives, however the work is cut up."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer, Target
from tonescope_server.engine.jacobian import FOLDED_WINDOWS, ROWS_PER_RUN, TARGETS_PER_GRAPH
from tonescope_server.errors import MethodNotApplicableError, TargetError, UnknownTensorError
from tonescope_server.testing import tiny_models, tiny_windows

# The same arithmetic on batches of other sizes: kernels may sum in another order.
SUMMED_OTHERWISE = 1e-6


def windows(name, count=5):
    return tiny_windows(tiny_models()[name], count)


def agrees(explainer, x, targets, got, **options):
    want = np.stack([explainer.gradient(x, target, **options) for target in targets])
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=SUMMED_OTHERWISE * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("count", [1, FOLDED_WINDOWS, FOLDED_WINDOWS + 1, 7])
@pytest.mark.parametrize("name", sorted(tiny_models()))
def test_without_targets_every_element_of_the_first_output_is_differentiated(explainers, name, count):
    explainer, x = explainers[name], windows(name, count)
    agrees(explainer, x, range(explainer.model.outputs[0].shape[1]), explainer.jacobian(x))


@pytest.mark.parametrize("count", [2, 5])
def test_targets_of_every_kind_stand_beside_each_other(explainers, count):
    explainer, x = explainers["conv_1d"], windows("conv_1d", count)
    targets = [
        2,
        "one",
        Target.predicted(),
        Target.element(0, "confidence"),
        np.arange(count) % 3,
        Target.difference(Target.predicted(), Target.element(1)),
        Target.negative_log_likelihood(),
        Target.log_probability("none"),
        Target.mean(),
        Target.difference(Target.mean(), Target.negative_log_likelihood("many")),
    ]
    got = explainer.jacobian(x, targets)
    agrees(explainer, x, targets, got)
    assert len({row.tobytes() for row in got}) == len(targets)


@pytest.mark.parametrize("count", [2, 3])
def test_many_targets_are_taken_in_parts(explainers, count):
    explainer, x = explainers["mlp"], windows("mlp", count)
    targets = [number % 4 for number in range(ROWS_PER_RUN // 2 + TARGETS_PER_GRAPH + 3)]
    agrees(explainer, x, targets, explainer.jacobian(x, targets))


def test_many_windows_are_taken_in_parts(explainers):
    explainer, x = explainers["scrambled"], windows("scrambled", ROWS_PER_RUN + 9)
    targets = [0, np.arange(len(x)) % 3, Target.predicted()]
    agrees(explainer, x, targets, explainer.jacobian(x, targets))


@pytest.mark.parametrize("count", [1, 4])
def test_several_values_are_differentiated_by_at_once(explainers, count):
    explainer, x = explainers["conv_1d"], windows("conv_1d", count)
    found = explainer.jacobian(x, [0, 2], at=["hidden", "input", "count"])
    assert list(found) == ["hidden", "input", "count"]
    for at, got in found.items():
        agrees(explainer, x, [0, 2], got, at=at)
    np.testing.assert_array_equal(found["count"][1], np.tile([0, 0, 1], (count, 1)))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("rule_set", ["guided_backprop", "deconvnet", "lrp"])
def test_other_rule_sets_have_jacobians_too(explainers, rule_set, count):
    explainer, x = explainers["conv_2d"], windows("conv_2d", count)
    agrees(explainer, x, [0, 2], explainer.jacobian(x, [0, 2], rule_set=rule_set), rule_set=rule_set)


def test_a_rule_set_that_needs_a_reference_is_refused(explainers):
    with pytest.raises(MethodNotApplicableError, match="reference"):
        explainers["mlp"].jacobian(windows("mlp"), [0], rule_set="deep_lift")


def test_one_plan_serves_other_targets_of_the_same_kind(explainers):
    explainer, x = explainers["scrambled"], windows("scrambled")
    explainer.jacobian(x, [0, 1])
    plans = len(explainer._cache)
    agrees(explainer, x, [2, 0], explainer.jacobian(x, [2, 0]))
    plans_after_gradients = len(explainer._cache)
    explainer.jacobian(x, [1, 1])
    assert len(explainer._cache) == plans_after_gradients
    assert plans_after_gradients <= plans + 1  # the gradient's own


BAD = {
    "no target": ([], "expected a sequence of at least one target, got \\[\\]"),
    "one name": ("one", "expected a sequence of at least one target, got 'one'"),
    "one target": (Target.predicted(), "expected a sequence of at least one target, got Target"),
    "a number": (3, "expected a sequence of at least one target, got 3"),
    "no such class": ([0, 7], "expected an index from 0 to 2, got 7"),
    "no such name": (["two"], "has no class 'two'"),
    "indices of other windows": ([np.array([0, 1])], "expected one index for each of 5 windows, got 2"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_targets_that_cannot_be_are_refused(explainers, case):
    targets, message = BAD[case]
    with pytest.raises(TargetError, match=message):
        explainers["conv_1d"].jacobian(windows("conv_1d"), targets)


def test_an_unknown_value_is_refused(explainers):
    with pytest.raises(UnknownTensorError, match="'nowhere'"):
        explainers["conv_1d"].jacobian(windows("conv_1d"), [0], at="nowhere")
    with pytest.raises(UnknownTensorError, match="at least one name"):
        explainers["conv_1d"].jacobian(windows("conv_1d"), [0], at=[])


def two_headed(tmp_path):
    """Save and load a network of two heads, and of a third output that has no slope."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["left"]),
        helper.make_node("Tanh", ["left"], ["y"]),
        helper.make_node("MatMul", ["x", "b"], ["right"]),
        helper.make_node("Exp", ["right"], ["z"]),
        helper.make_node("Sign", ["x"], ["flat"]),
    ]
    generator = np.random.default_rng(0)
    weights = {n: generator.standard_normal((4, 3)).astype(np.float32) for n in "ab"}
    info = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", None]) for n in ("y", "z", "flat")}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    constants = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "heads", [x], list(info.values()), constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    return Explainer.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("count", [1, FOLDED_WINDOWS, FOLDED_WINDOWS + 1])
@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("steps", ["", "steps"])
def test_a_head_on_the_last_state_of_a_recurrent_layer_has_one(tmp_path, op, gates, steps, count):
    """``Linear(h[-1])`` reads no steps: exporters leave that output out, or unread."""
    generator = np.random.default_rng(0)
    sizes = {"w": (1, 3 * gates, 4), "r": (1, 3 * gates, 3), "head": (3, 2)}
    weights = {name: generator.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    nodes = [
        helper.make_node("Transpose", ["x"], ["by_step"], perm=[1, 0, 2]),
        helper.make_node(op, ["by_step", "w", "r"], [steps, "last"], hidden_size=3),
        helper.make_node("Squeeze", ["last", "zeroth"], ["state"]),
        helper.make_node("MatMul", ["state", "head"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *d]) for n, d in (("x", (5, 4)), ("y", (2,)))]
    constants = [numpy_helper.from_array(v, n) for n, v in {**weights, "zeroth": np.int64([0])}.items()]
    graph = helper.make_graph(nodes, "recurrent", info[:1], info[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    explainer, x = Explainer.load(tmp_path / "m.onnx"), generator.standard_normal((count, 5, 4)).astype(np.float32)
    agrees(explainer, x, [0, 1], explainer.jacobian(x))


@pytest.mark.parametrize("count", [1, FOLDED_WINDOWS + 1])
def test_what_no_target_depends_on_has_a_jacobian_of_zeros(tmp_path, count):
    explainer, x = two_headed(tmp_path), np.random.default_rng(1).standard_normal((count, 4)).astype(np.float32)
    flat = [Target.element(k, "flat") for k in range(4)]
    agrees(explainer, x, flat, explainer.jacobian(x, flat))  # the input itself, through what has no slope
    agrees(explainer, x, [0, 1], explainer.jacobian(x, [0, 1], at="right"), at="right")  # the other head
    assert not explainer.jacobian(x, flat).any()
    assert not explainer.jacobian(x, [0, 1], at="right").any()


@pytest.mark.parametrize("count", [1, FOLDED_WINDOWS + 1])
def test_a_tap_beside_the_path_of_one_target_has_the_others_gradients(tmp_path, count):
    explainer, x = two_headed(tmp_path), np.random.default_rng(1).standard_normal((count, 4)).astype(np.float32)
    targets = [Target.element(2, "y"), Target.element(2, "z"), Target.mean(), Target.mean(output="z")]
    found = explainer.jacobian(x, targets, at=["left", "right"])
    for at, got in found.items():
        agrees(explainer, x, targets, got, at=at)
    assert [bool(row.any()) for row in found["right"]] == [False, True, False, True]
