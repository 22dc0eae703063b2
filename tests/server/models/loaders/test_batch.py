"""The input: which it is, its batch axis, and axes that the graph leaves open."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tonescope_server import Explainer, Target
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import ManifestError
from tonescope_server.models.loading import load_model
from tonescope_server.models.manifest import Manifest

from .dense import BIAS, WEIGHT, dense, expected, windows


def test_a_batch_of_another_name_is_called_batch(save):
    model = load_model(save(shape=("N", 4, 5), output_shape=("N", 3)))
    assert model.graph.graph.inputs[0].shape[0] == "batch"
    assert model.graph.graph.outputs[0].shape[0] == "batch"


@pytest.mark.parametrize("target", [[1, 20], [1, -1]])
def test_a_batch_fixed_at_one_is_opened_through_reshapes(target, save, run):
    nodes = dense(helper.make_node("Reshape", ["x", "target"], ["flat"]))
    tensors = {"w": WEIGHT, "b": BIAS, "target": np.int64(target)}

    def note(proto):
        proto.graph.value_info.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, (1, 20)))

    model = load_model(save(nodes=nodes, tensors=tensors, shape=(1, 4, 5), output_shape=(1, 3), change=note))
    x = windows()
    np.testing.assert_allclose(run(model.graph, x)["logits"], expected(x), rtol=1e-5, atol=1e-5)
    assert model.input.shape == (-1, 4, 5)
    assert model.outputs[0].shape == (-1, 3)


def test_a_batch_that_cannot_be_opened_stays_with_a_warning(save, run):
    # Subtracting the mean over axis 0 mixes the windows of a batch: only batches of one are right.
    nodes = [
        helper.make_node("ReduceMax", ["x", "zero"], ["top"], keepdims=1),
        helper.make_node("Flatten", ["top"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    tensors = {"w": WEIGHT, "b": BIAS, "zero": np.int64([0])}
    model = load_model(save(nodes=nodes, tensors=tensors, shape=(1, 4, 5)))
    assert model.input.shape == (1, 4, 5)
    assert any("takes one window at a time" in warning for warning in model.warnings)
    np.testing.assert_allclose(run(model.graph, windows(1))["logits"], expected(windows(1)), rtol=1e-5, atol=1e-5)


def test_a_graph_that_cannot_run_opened_stays_with_a_warning(save):
    # The reshape's target is computed, so it cannot be loosened, and a longer batch does not fit it.
    nodes = [
        helper.make_node("Identity", ["fixed"], ["target"]),
        *dense(helper.make_node("Reshape", ["x", "target"], ["flat"])),
    ]
    model = load_model(save(nodes=nodes, tensors={"w": WEIGHT, "b": BIAS, "fixed": np.int64([1, 20])}, shape=(1, 4, 5)))
    assert model.input.shape == (1, 4, 5)


def test_a_fixed_batch_of_several_is_refused(save):
    nodes = [
        helper.make_node("ReduceMax", ["x", "zero"], ["top"], keepdims=1),
        helper.make_node("Flatten", ["top"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    tensors = {"w": WEIGHT, "b": BIAS, "zero": np.int64([0])}
    with pytest.raises(ManifestError, match='input "x" takes batches of 4 only'):
        load_model(save(nodes=nodes, tensors=tensors, shape=(4, 4, 5)))


def test_an_open_axis_needs_a_size_from_the_manifest(save):
    path = save(shape=("batch", 4, "time"))
    with pytest.raises(ManifestError, match=r'input "x" \(batch, 4, time\): axis 2 is open: state \[input\] shape'):
        load_model(path)
    assert load_model(path, manifest=Manifest.parse({"input": {"shape": [4, 5]}})).input.shape == (-1, 4, 5)


def test_an_open_axis_gets_its_size_in_the_outputs_too(save):
    nodes = [helper.make_node("Relu", ["x"], ["logits"])]
    path = save(nodes=nodes, shape=("batch", 4, "time"), output_shape=("batch", 4, "time"))
    model = load_model(path, manifest=Manifest.parse({"input": {"shape": [4, 5]}}))
    assert model.outputs[0].shape == (-1, 4, 5)


def test_a_shape_that_contradicts_the_graph_is_refused(save):
    with pytest.raises(ManifestError, match=r"expected \(batch, 4, 5\) as in the graph, got \(batch, 5, 4\)"):
        load_model(save(), manifest=Manifest.parse({"input": {"shape": [5, 4]}}))


def test_a_model_without_a_batch_axis_is_refused(save):
    with pytest.raises(ManifestError, match=r"expected a batch axis and at least one more, got \(20\)"):
        load_model(save(shape=(20,), nodes=[helper.make_node("Relu", ["x"], ["logits"])]))


def two_inputs(kind):
    return [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4, 5)),
        helper.make_tensor_value_info("y", kind, ("batch", 4, 5)),
    ]


def test_a_second_input_is_refused_by_name(save):
    nodes = [helper.make_node("Add", ["x", "y"], ["logits"])]
    with pytest.raises(ManifestError, match=r"expected one input, of a float type, got 2 \(x, y\)"):
        load_model(save(nodes=nodes, inputs=two_inputs(TensorProto.FLOAT)))


def test_an_input_name_there_is_none_of_is_refused(save):
    with pytest.raises(ManifestError, match=r'no float input "csi" \(inputs: x\)'):
        load_model(save(), manifest=Manifest.parse({"input": {"name": "csi"}}))


def test_an_initializer_that_is_also_listed_as_an_input_is_none(save):
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 4, 5)),
        helper.make_tensor_value_info("w", TensorProto.FLOAT, (20, 3)),
    ]
    model = load_model(save(inputs=inputs))
    assert [value.name for value in model.graph.graph.inputs] == ["x"]


CENTRED = [
    helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
    helper.make_node("Sub", ["x", "mean"], ["centred"]),
]


@pytest.mark.parametrize(("axes", "coupled"), [([0], True), ([1], False)])
def test_a_model_that_couples_the_windows_of_a_batch_is_told_apart(save, axes, coupled):
    nodes = [*CENTRED, *dense()]
    nodes[2].input[0] = "centred"
    model = load_model(save(nodes=nodes, tensors={"w": WEIGHT, "b": BIAS, "axes": np.int64(axes)}))
    assert model.is_coupled is coupled
    assert any("depends on the others in its batch" in text for text in model.warnings) is coupled
    result = Explainer(model, installed_plugins()).explain(windows(), "saliency", Target.element(0))
    assert ("BATCH_COUPLED" in [w.code for w in result.warnings]) is coupled


@pytest.mark.parametrize("share", [1e-1, 1e-4, 0.0])
def test_a_share_of_its_neighbours_couples_a_window_however_small(save, share):
    nodes = [CENTRED[0], helper.make_node("Mul", ["mean", "share"], ["part"]), *dense()]
    nodes.insert(2, helper.make_node("Add", ["x", "part"], ["mixed"]))
    nodes[3].input[0] = "mixed"
    model = load_model(
        save(nodes=nodes, tensors={"w": WEIGHT, "b": BIAS, "axes": np.int64([0]), "share": np.float32(share)})
    )
    assert model.is_coupled is (share > 0)


def test_a_batch_of_one_is_not_opened_where_that_would_couple_windows_a_little(save):
    nodes = [CENTRED[0], helper.make_node("Mul", ["mean", "share"], ["part"]), *dense()]
    nodes.insert(2, helper.make_node("Add", ["x", "part"], ["mixed"]))
    nodes[3].input[0] = "mixed"
    tensors = {"w": WEIGHT, "b": BIAS, "axes": np.int64([0]), "share": np.float32(2e-5)}
    model = load_model(save(nodes=nodes, tensors=tensors, shape=(1, 4, 5), output_shape=(1, 3)))
    assert model.input.shape[0] == 1


@pytest.mark.parametrize("batch", ["batch", 1])
def test_a_model_that_draws_at_random_says_so_and_is_not_called_coupled(save, batch):
    drawn = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], scale=0.1),
        helper.make_node("Add", ["x", "noise"], ["noisy"]),
    ]
    nodes = [*drawn, *dense()]
    nodes[2].input[0] = "noisy"
    model = load_model(save(nodes=nodes, tensors={"w": WEIGHT, "b": BIAS}, shape=(batch, 4, 5)))
    assert model.is_random
    assert not model.is_coupled
    assert any("differs from run to run: it draws at random (RandomNormalLike)" in text for text in model.warnings)
    codes = [w.code for w in Explainer(model, installed_plugins()).explain(windows(1), "saliency", 0).warnings]
    assert "MODEL_RANDOM" in codes
    assert "BATCH_COUPLED" not in codes


def test_a_dropout_that_does_not_train_draws_nothing(save):
    nodes = [helper.make_node("Dropout", ["x", "ratio", "mode"], ["kept"]), *dense()]
    nodes[1].input[0] = "kept"
    for mode in (False, True):
        tensors = {"w": WEIGHT, "b": BIAS, "ratio": np.float32(0.5), "mode": np.bool_(mode)}
        assert load_model(save(nodes=nodes, tensors=tensors)).is_random is mode


def test_a_branch_that_is_chosen_for_all_windows_together_couples_them(save):
    """Two windows need not show it: here they would have to be very large."""
    out = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, ["batch", 4, 5])
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node(op, ["x"], ["chosen"])], name, [], [out])
        for name, op in (("then", "Neg"), ("else", "Identity"))
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "much"], ["is_large"]),
        helper.make_node("If", ["is_large"], ["h"], **branches),
        *dense(),
    ]
    nodes[3].input[0] = "h"
    model = load_model(save(nodes=nodes, tensors={"w": WEIGHT, "b": BIAS, "much": np.float32(1e6)}))
    assert model.is_coupled


def test_a_model_that_takes_one_window_at_a_time_couples_none(save):
    nodes = [*CENTRED, *dense()]
    nodes[2].input[0] = "centred"
    tensors = {"w": WEIGHT, "b": BIAS, "axes": np.int64([0])}
    model = load_model(save(nodes=nodes, tensors=tensors, shape=(1, 4, 5), output_shape=(1, 3)))
    assert model.input.shape[0] == 1
    assert not model.is_coupled
