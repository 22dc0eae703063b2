"""A model whose layers are random: which layers there are, what becomes of their weights, and what stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.engine.randomised import weight_layers, with_random_weights
from tonescope_server.models.loading import load_model
from tonescope_server.testing import tiny_models, tiny_windows

MODELS = tiny_models()


def weights_of(model):
    return {name: value.const_value.numpy() for name, value in model.graph.graph.initializers.items()}


def test_layers_stand_from_the_input_upwards_and_leave_out_what_the_output_does_not_depend_on():
    model = MODELS["conv_1d"]
    count = weight_layers(model)
    assert [layer.name.split("_")[1] for layer in count] == ["Conv", "Conv", "Gemm"]
    assert all(len(layer.weights) == 2 for layer in count)
    confidence = weight_layers(model, "confidence")
    assert confidence[:2] == count[:2]
    assert confidence[2] != count[2]


def test_scale_and_axes_and_shapes_are_no_weights():
    model = MODELS["attention"]
    found = {name for layer in weight_layers(model) for name in layer.weights}
    arrays = weights_of(model)
    assert found == {name for name, array in arrays.items() if array.dtype.kind == "f" and array.size > 1}
    assert len(found) < len(arrays)


@pytest.mark.parametrize("name", MODELS)
def test_with_all_layers_random_predictions_are_others_and_finite(name):
    model = MODELS[name]
    random = with_random_weights(model, weight_layers(model), seed=1)
    x = tiny_windows(model)
    before, after = (Explainer(each, installed_plugins()).predict(x).scores for each in (model, random))
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 0.01


def test_the_model_itself_and_the_other_layers_are_left_as_they_are():
    model = MODELS["conv_2d"]
    before = {name: array.copy() for name, array in weights_of(model).items()}
    layers = weight_layers(model)
    random = with_random_weights(model, layers[1:2], seed=1)
    changed = {name for name, array in weights_of(random).items() if (array != before[name]).any()}
    assert changed <= set(layers[1].weights)
    assert changed
    assert all((array == before[name]).all() for name, array in weights_of(model).items())


def test_kernels_keep_their_root_mean_square_and_vectors_their_values():
    model = MODELS["conv_2d"]
    random = with_random_weights(model, weight_layers(model), seed=1)
    for name, array in weights_of(random).items():
        own = weights_of(model)[name]
        assert (array.shape, array.dtype) == (own.shape, own.dtype)
        if own.ndim == 1:
            np.testing.assert_array_equal(np.sort(array), np.sort(own))  # so that a variance stays positive
        elif own.size > 100:
            # The root mean square of n normal numbers is off by 1/√(2n): 6 % at 144 numbers, and four times that.
            assert np.sqrt((array**2).mean()) == pytest.approx(np.sqrt((own**2).mean()), rel=0.25)
            assert abs(np.corrcoef(array.ravel(), own.ravel())[0, 1]) < 0.3


def test_a_weight_is_drawn_by_seed_draw_and_name_whatever_else_is_random():
    model = MODELS["conv_1d"]
    layers = weight_layers(model)
    one, all_of_them = (with_random_weights(model, each, 5) for each in (layers[:1], layers))
    name = layers[0].weights[0]
    np.testing.assert_array_equal(weights_of(one)[name], weights_of(all_of_them)[name])
    for other in (with_random_weights(model, layers, 6), with_random_weights(model, layers, 5, draw=1)):
        assert (weights_of(other)[name] != weights_of(one)[name]).all()


def test_each_has_a_digest_of_its_own_so_that_no_plan_is_taken_for_anothers():
    model = MODELS["conv_1d"]
    layers = weight_layers(model)
    made = [(layers[:1], 0, 0), (layers[:2], 0, 0), (layers, 0, 0), (layers, 1, 0), (layers, 0, 1)]
    digests = {with_random_weights(model, *each).digest for each in made} | {model.digest}
    assert len(digests) == 6


def test_quantised_weights_are_shuffled_and_a_mask_is_left(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "quantised": random.integers(-90, 90, (12, 8)).astype(np.int8),
        "scale": np.array(0.01, np.float32),
        "zero_point": np.array(3, np.int8),
        "mask": np.where(np.arange(8) < 6, 0, -np.inf).astype(np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero_point"], ["weights"]),
        helper.make_node("MatMul", ["x", "weights"], ["hidden"]),
        helper.make_node("Add", ["hidden", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["scores"], name="softmax"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", k]) for n, k in (("x", 12), ("scores", 8))]
    kept = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "quantised", ends[:1], ends[1:], kept)
    path = tmp_path / "quantised.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    model = load_model(path)
    (layer,) = weight_layers(model)
    assert layer.weights == ("quantised",)
    made = weights_of(with_random_weights(model, [layer], 1))["quantised"]
    assert made.dtype == np.int8
    assert (made != arrays["quantised"]).any()
    np.testing.assert_array_equal(np.sort(made, axis=None), np.sort(arrays["quantised"], axis=None))
