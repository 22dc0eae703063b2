"""The explainer as a user meets it: arrays in, answers out, and one line for everything that cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer, plugin
from tonescope_server.csi.cells import cell_map
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.engine.plan import PlanCache
from tonescope_server.engine.windows import checked
from tonescope_server.errors import (
    DtypeError,
    ModelError,
    NonFiniteError,
    NotFoundError,
    ParameterError,
    ShapeError,
    UnknownMethodError,
    UnknownModelError,
    UnknownTensorError,
    UnsupportedOperatorError,
)
from tonescope_server.plugin import Requirement
from tonescope_server.testing import tiny_models, tiny_windows

METHODS = ["input_x_gradient", "integrated_gradients", "occlusion", "saliency", "subcarrier_saliency"]
# Relative to the window's largest value: kernels for other batch sizes sum in another order.
INVARIANCE = 1e-6


# -- windows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.int8, np.uint8, bool])
def test_real_numbers_of_any_type_are_converted(explainers, dtype):
    x = (tiny_windows(tiny_models()["conv_2d"]) * 2).round().clip(0, 1).astype(dtype)
    got = explainers["conv_2d"].explain(x, "saliency")
    want = explainers["conv_2d"].explain(x.astype(np.float32), "saliency")
    np.testing.assert_array_equal(got.tones, want.tones)
    assert got.tones.dtype == got.cells.dtype == np.float32


def test_lists_and_arrays_of_any_layout_are_accepted(explainers):
    x = tiny_windows(tiny_models()["scrambled"])
    want = explainers["scrambled"].explain(x).tones
    strided = np.repeat(x, 2, axis=0)[::2]
    fortran = np.asfortranarray(x)
    swapped = x.astype(x.dtype.newbyteorder())
    for given in (x.tolist(), strided, fortran, swapped):
        np.testing.assert_array_equal(explainers["scrambled"].explain(given).tones, want)


BAD = {
    "no batch axis": (np.zeros((10, 5)), ShapeError, r"input 'csi': expected \(batch, 10, 5\), got \(10, 5\)"),
    "transposed": (np.zeros((2, 5, 10)), ShapeError, r"expected \(batch, 10, 5\), got \(2, 5, 10\)"),
    "flat": (np.zeros((2, 50)), ShapeError, r"expected \(batch, 10, 5\), got \(2, 50\)"),
    "one axis too many": (np.zeros((2, 1, 10, 5)), ShapeError, r"got \(2, 1, 10, 5\)"),
    "no windows": (np.zeros((0, 10, 5)), ShapeError, r"got \(0, 10, 5\)"),
    "a number": (1.0, ShapeError, r"got \(\)"),
    "ragged": ([[1.0], [1.0, 2.0]], ShapeError, r"expected \(batch, 10, 5\), got a ragged list"),
    "complex": (np.zeros((2, 10, 5), complex), DtypeError, r"expected real numbers \(float32\), got complex128"),
    "text": (np.full((2, 10, 5), "a"), DtypeError, r"expected real numbers \(float32\), got <U1"),
    "objects": (np.full((2, 10, 5), None), DtypeError, r"got object"),
    "dates": (np.zeros((2, 10, 5), "M8[s]"), DtypeError, r"got datetime64"),
}
HOLES = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "too large for float32": 1e300}


@pytest.mark.parametrize("ask", ["explain", "predict", "gradient", "score"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_window_is_refused_in_one_line(explainers, name, ask):
    x, error, message = BAD[name]
    with pytest.raises(error, match=message) as caught:
        getattr(explainers["scrambled"], ask)(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", HOLES)
def test_a_number_that_is_not_finite_is_refused_with_its_place(explainers, name):
    x = tiny_windows(tiny_models()["scrambled"]).astype(np.float64)
    x[3, 7, 2] = HOLES[name]
    with pytest.raises(NonFiniteError, match=r"expected finite numbers, got (nan|-?inf) at \(7, 2\)") as several:
        explainers["scrambled"].explain(x)
    assert str(several.value).startswith("window 3: input 'csi': ")
    with pytest.raises(NonFiniteError, match=r"^input 'csi': expected finite numbers, got (nan|-?inf) at \(7, 2\)"):
        explainers["scrambled"].explain(x[3:4])


def test_infinities_that_cancel_are_seen(explainers):
    x = np.zeros((1, 10, 5))
    x[0, 0, 0], x[0, 9, 4] = np.inf, -np.inf
    with pytest.raises(NonFiniteError):
        explainers["scrambled"].predict(x)


def test_a_large_finite_window_is_no_infinity():
    x = np.full((1, 10, 5), 3e38)
    np.testing.assert_array_equal(checked(tiny_models()["scrambled"], x), x.astype(np.float32))


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_array_is_not_changed(explainers, method):
    x = tiny_windows(tiny_models()["conv_1d"])
    before = x.copy()
    explainers["conv_1d"].explain(x, method)
    np.testing.assert_array_equal(x, before)
    assert x.flags.writeable


# -- answers ----------------------------------------------------------------------------------------------------


def test_a_prediction_has_outputs_names_and_probabilities(explainers):
    x = tiny_windows(tiny_models()["conv_1d"])
    prediction = explainers["conv_1d"].predict(x)
    assert list(prediction.outputs) == ["count", "confidence"]
    np.testing.assert_array_equal(prediction.scores, prediction.outputs["count"])
    np.testing.assert_array_equal(prediction.class_index, prediction.scores.argmax(axis=1))
    assert prediction.class_names == ("none", "one", "many")
    powers = np.exp(prediction.scores.astype(np.float64))
    np.testing.assert_allclose(prediction.probabilities, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(prediction.untrained, prediction.class_index == 2)


def test_a_regression_predicts_no_class(explainers):
    prediction = explainers["mlp"].predict(tiny_windows(tiny_models()["mlp"]))
    assert prediction.scores.shape == (5, 4)
    assert (prediction.class_index, prediction.probabilities, prediction.untrained) == (None, None, None)


def test_an_activation_is_the_models_own(explainers):
    x = tiny_windows(tiny_models()["conv_1d"])
    hidden = explainers["conv_1d"].activation(x, "hidden")
    assert hidden.shape == (5, 6, 6)
    assert (hidden >= 0).all()
    pooled = explainers["conv_1d"].activation(x, "pooled")
    weight = tiny_models()["conv_1d"].graph.graph.initializers
    head = next(n for n in tiny_models()["conv_1d"].graph.graph if n.outputs[0].name == "count")
    w, b = (weight[v.name].const_value.numpy() for v in head.inputs[1:])
    np.testing.assert_allclose(
        pooled @ w.T + b, explainers["conv_1d"].predict(x).outputs["count"], rtol=1e-5, atol=1e-6
    )


def test_a_gradient_at_a_tap_is_the_chain_rules(explainers):
    explainer, x = explainers["conv_1d"], tiny_windows(tiny_models()["conv_1d"])
    head = next(n for n in tiny_models()["conv_1d"].graph.graph if n.outputs[0].name == "count")
    weight = head.inputs[1].const_value.numpy()
    np.testing.assert_allclose(explainer.gradient(x, 2, at="pooled"), np.tile(weight[2], (5, 1)), rtol=1e-6)
    # hidden feeds a convolution: by central differences of what follows, which the graph cannot be asked for, but
    # the input can, through the first layer: d/dx = J1ᵀ · d/dhidden.
    first = next(n for n in tiny_models()["conv_1d"].graph.graph if n.op_type == "Conv")
    kernel = first.inputs[1].const_value.numpy()
    by_hidden = explainer.gradient(x, 2, at="hidden") * (explainer.activation(x, "hidden") > 0)
    padded = np.zeros((5, 56, 8), np.float32)
    for t in range(6):
        padded[:, :, t : t + 3] += np.einsum("bm,mck->bck", by_hidden[:, :, t], kernel)
    np.testing.assert_allclose(explainer.gradient(x, 2), padded[:, :, 1:-1], rtol=1e-4, atol=1e-6)


def test_a_gradient_at_the_output_is_one_for_the_target(explainers):
    got = explainers["conv_1d"].gradient(tiny_windows(tiny_models()["conv_1d"]), 1, at="count")
    np.testing.assert_array_equal(got, np.tile([0, 1, 0], (5, 1)))


@pytest.mark.parametrize("ask", ["gradient", "activation"])
def test_an_unknown_value_is_refused_with_the_models_own_values(explainers, ask):
    with pytest.raises(UnknownTensorError, match=r"no value named 'layer9' .* csi, .*hidden"):
        getattr(explainers["conv_1d"], ask)(tiny_windows(tiny_models()["conv_1d"]), at="layer9")


def test_an_unknown_rule_set_is_refused_by_name(explainers):
    with pytest.raises(NotFoundError, match=r"no rule set named 'magic'; there are .*standard"):
        explainers["mlp"].gradient(tiny_windows(tiny_models()["mlp"]), rule_set="magic")


def test_an_unknown_method_is_refused_with_those_there_are(explainers):
    with pytest.raises(UnknownMethodError, match=r"no method named 'magic'; there are .*saliency"):
        explainers["mlp"].explain(tiny_windows(tiny_models()["mlp"]), "magic")


def test_an_unknown_parameter_is_refused_by_name(explainers):
    with pytest.raises(ParameterError, match="method 'saliency' has no parameter 'steps'"):
        explainers["mlp"].explain(tiny_windows(tiny_models()["mlp"]), "saliency", steps=3)


# -- the batch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", tiny_models())
def test_a_windows_answer_does_not_depend_on_its_batch(explainers, model, method):
    x = tiny_windows(tiny_models()[model], 64)
    whole = explainers[model].explain(x, method)
    scale = np.abs(whole.score).max() if method == "occlusion" else 0.0  # a difference of scores keeps their rounding
    for row in (0, 31, 63):
        alone = explainers[model].explain(x[row : row + 1], method)
        for name in ("cells", "tones"):
            got, want = getattr(alone, name), getattr(whole, name)
            if want is None:
                continue
            assert np.abs(got[0] - want[row]).max() <= INVARIANCE * max(np.abs(want[row]).max(), scale), name
        np.testing.assert_allclose(alone.prediction.scores[0], whole.prediction.scores[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_that_runs_in_parts_is_put_together_in_order(explainers, method):
    x = tiny_windows(tiny_models()["scrambled"], 300)
    classes = np.arange(300) % 3
    whole = explainers["scrambled"].explain(x, method, classes)
    assert whole.tones.shape == (300, 10)
    for part in (slice(0, 7), slice(250, 270), slice(290, 300)):
        some = explainers["scrambled"].explain(x[part], method, classes[part])
        np.testing.assert_allclose(some.tones, whole.tones[part], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(some.score, whole.score[part], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_request_gives_the_same_bytes(explainers, explainer_with, method):
    x = tiny_windows(tiny_models()["conv_1d"], 64)
    results = [
        e.explain(x, method) for e in (explainers["conv_1d"], explainers["conv_1d"], explainer_with(model="conv_1d"))
    ]
    assert len({r.tones.tobytes() for r in results}) == 1
    assert len({None if r.cells is None else r.cells.tobytes() for r in results}) == 1
    assert len({r.score.tobytes() for r in results}) == 1


# -- what is known ----------------------------------------------------------------------------------------------


def test_operators_are_counted(explainers):
    found = {name: (count, differentiable) for name, count, differentiable in explainers["conv_1d"].operators()}
    assert found["Relu"] == (2, True)
    assert found["Conv"] == (2, True)
    assert found["Sigmoid"] == (1, True)


def test_layers_are_the_values_a_gradient_can_be_taken_by(explainers):
    explainer, x = explainers["conv_2d"], tiny_windows(tiny_models()["conv_2d"])
    layers = {layer.name: layer for layer in explainer.layers()}
    assert layers["logits"].op_type == "Gemm"
    for name, layer in layers.items():
        assert explainer.gradient(x, 0, at=name).shape == (5, *layer.shape[1:])


def test_several_gradients_come_from_one_backward_pass(explainers):
    explainer, x = explainers["conv_1d"], tiny_windows(tiny_models()["conv_1d"])
    inner = next(layer.name for layer in explainer.layers() if layer.op_type == "Relu")
    found = explainer.gradient(x, 0, at=["input", inner])
    np.testing.assert_allclose(found["input"], explainer.gradient(x, 0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[inner], explainer.gradient(x, 0, at=inner), rtol=1e-5, atol=1e-7)


def test_a_value_asked_for_twice_or_by_two_names_is_answered_under_each(explainers):
    explainer, x = explainers["mlp"], tiny_windows(tiny_models()["mlp"])
    by_value = explainer.model.input.name
    found = explainer.gradient(x, 0, at=("input", by_value, "input"))
    assert list(found) == ["input", by_value]
    assert found["input"].tobytes() == found[by_value].tobytes() == explainer.gradient(x, 0).tobytes()


@pytest.mark.parametrize(
    ("at", "said"),
    [(["input", 3], "a name, got 3"), (None, "a name, got None"), ([], "at least one name, got an empty list")],
    ids=str,
)
def test_what_is_no_name_is_refused_in_words(explainers, at, said):
    with pytest.raises(UnknownTensorError, match=f"^at: expected {said}$"):
        explainers["mlp"].gradient(tiny_windows(tiny_models()["mlp"]), at=at)


def test_a_layer_goes_by_its_node_and_by_the_module_that_the_exporter_recorded(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], name="node_linear"),
        helper.make_node("Tanh", ["a"], ["b"], name="node_tanh"),
        helper.make_node("Gemm", ["b", "v"], ["y"], name="node_head"),
    ]
    for node, scopes in zip(nodes, (["blocks.0", "blocks.0.fc"], ["blocks.0", "blocks.0.act"], ["head"]), strict=True):
        listed = ["", "blocks", *scopes, node.name] if scopes[0] != "head" else ["", "head", node.name]
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(listed))
    weights = {"w": np.eye(4, 3, dtype=np.float32), "v": np.ones((3, 2), np.float32)}
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 4), ("y", 2))]
    graph = helper.make_graph(
        nodes, "g", info[:1], info[1:], [numpy_helper.from_array(v, k) for k, v in weights.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    explainer = Explainer.load(tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    for name, value in (
        ("node_linear", "a"),
        ("blocks.0.fc", "a"),
        ("blocks.0.act", "b"),
        ("blocks.0", "b"),
        ("blocks", "b"),
        ("head", "y"),
    ):
        np.testing.assert_array_equal(explainer.activation(x, name), explainer.activation(x, value))
    assert [(layer.node, layer.module) for layer in explainer.layers()][1] == ("node_tanh", "blocks.0.act")


def test_every_method_that_needs_no_layer_applies_to_a_model_whose_operators_have_rules(explainers):
    for explainer in explainers.values():
        methods = explainer.host.methods
        needs = {
            name: method.requirement in (Requirement.LAYER, Requirement.ATTENTION) for name, method in methods.items()
        }
        assert {why for name, why in explainer.applicability().items() if not needs[name]} == {""}


@pytest.fixture
def ruleless(tiny_store):
    return Explainer.load("ruleless", store=tiny_store)


def test_an_operator_without_a_rule_is_named_with_the_methods_that_still_work(ruleless):
    x = np.ones((2, 56, 4))
    by_predictions = [n for n, m in ruleless.host.methods.items() if m.requirement is plugin.Requirement.PREDICTIONS]
    for ask in (lambda: ruleless.explain(x, "saliency"), lambda: ruleless.gradient(x)):
        with pytest.raises(UnsupportedOperatorError) as caught:
            ask()
        message = str(caught.value)
        assert "rule set 'standard' has no rule for operator Hardmax (node" in message
        assert message.endswith(f"these methods still work: {', '.join(sorted(by_predictions))}")
        assert "\n" not in message
    assert ("Hardmax", 1, False) in ruleless.operators()


def test_occlusion_works_where_gradients_do_not(ruleless):
    x = np.random.default_rng(0).standard_normal((60, 56, 4))  # Hardmax: few windows are close enough to change
    result = ruleless.explain(x, "occlusion", 1)
    assert np.isfinite(result.tones).all()
    assert np.abs(result.tones).max() > 0
    reasons = ruleless.applicability()
    assert reasons["occlusion"] == ""
    assert reasons["saliency"].startswith("rule set 'standard' has no rule for operator Hardmax (node ")
    works = {name for name, why in reasons.items() if not why}
    assert all(ruleless.explain(x, name, 1).tones.shape == (60, 56) for name in works)


def test_an_operator_without_a_rule_beside_the_target_does_no_harm(ruleless):
    assert ruleless.gradient(np.ones((1, 56, 4)), 0, at="active").shape == (1, 16)


# -- loading ----------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_from_a_file_a_folder_and_a_store(tiny_store, monkeypatch):
    x = np.ones((1, 56, 4))
    by_file = Explainer.load(tiny_store / "tiny" / "model.onnx", manifest=tiny_store / "tiny" / "model.toml")
    by_folder = Explainer.load(tiny_store / "tiny")
    by_name = Explainer.load("tiny", store=tiny_store)
    monkeypatch.setenv("TONESCOPE_STORE", str(tiny_store))
    by_environment = Explainer.load("tiny")
    scores = [e.predict(x).scores for e in (by_file, by_folder, by_name, by_environment)]
    assert len({s.tobytes() for s in scores}) == 1
    assert by_name.model.name == "tiny"


def test_neither_a_file_nor_a_name_says_what_was_looked_for(monkeypatch, tiny_store):
    monkeypatch.delenv("TONESCOPE_STORE", raising=False)
    with pytest.raises(UnknownModelError, match="model 'nothing': expected a file, or a name in a store"):
        Explainer.load("nothing")
    with pytest.raises(UnknownModelError, match="nothing"):
        Explainer.load("nothing", store=tiny_store)


def test_a_method_whose_own_rules_refuse_an_operator_is_said_not_to_apply(tmp_path):
    node = helper.make_node("TopK", ["x", "k"], ["y", "places"])
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 4), ("y", 1))]
    initial = [numpy_helper.from_array(np.array([1]), "k")]
    graph = helper.make_graph([node], "g", info[:1], info[1:], initial)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    found = Explainer.load(tmp_path / "m.onnx").applicability()
    assert found["saliency"] == found["occlusion"] == ""
    assert "TopK" in found["deep_lift"]


def unknown_to_the_runtime(folder, domain):
    """Write a model with an operator that no runtime has."""
    graph = helper.make_graph(
        [helper.make_node("Wiggle", ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "model.onnx")
    return Explainer.load(folder / "model.onnx")


@pytest.mark.parametrize("domain", ["acme.radio", "com.microsoft"])
def test_no_method_applies_to_a_model_that_the_runtime_cannot_run(tmp_path, domain):
    explainer = unknown_to_the_runtime(tmp_path, domain)
    said = f"the model cannot be run: ONNX Runtime has no operator {domain}::Wiggle"
    assert set(explainer.applicability().values()) == {said}
    for method in ("saliency", "occlusion"):
        with pytest.raises(ModelError) as caught:
            explainer.explain(np.zeros((1, 4)), method=method)
        assert str(caught.value) == said


def test_manifest_adapter_and_weights_belong_to_files_not_to_names(tiny_store):
    for option in ("manifest", "adapter", "weights"):
        with pytest.raises(ParameterError, match=f"^{option}: expected only with a model file, got model 'tiny'"):
            Explainer.load("tiny", store=tiny_store, **{option: "anything"})


@pytest.mark.parametrize("asked", [None, "", 5, b"tiny"])
def test_what_is_neither_a_path_nor_a_name_is_refused_in_one_line(tiny_store, asked):
    with pytest.raises(ParameterError) as caught:
        Explainer.load(asked, store=tiny_store)
    assert str(caught.value) == f"model: expected a file, a folder or a name in the store, got {asked!r}"


def test_an_empty_name_is_no_layer(explainers):
    x = tiny_windows(tiny_models()["conv_1d"])
    with pytest.raises(UnknownTensorError, match="expected 'input'"):
        explainers["conv_1d"].gradient(x, 0, at="")


@pytest.mark.parametrize("method", ["input_x_gradient", "subcarrier_saliency"])
def test_manifests_that_lay_the_same_weights_out_otherwise_share_no_plan(method):
    model = tiny_models()["complex"]
    cells, cache, host, x = model.cells, PlanCache(), installed_plugins(), tiny_windows(model)
    for order in (cells.cell_order, "component_link_tone_frame", "tone_component_frame_link"):
        other = cell_map(cells.shape, model.table, order, cells.n_frames, cells.links, cells.components)
        relabelled = replace(model, cells=other)
        shared = Explainer(relabelled, host, cache=cache).explain(x, method)
        alone = Explainer(relabelled, host).explain(x, method)
        assert shared.tones.tobytes() == alone.tones.tobytes()
        assert shared.null_tone_share.tobytes() == alone.null_tone_share.tobytes()


def test_parameters_may_be_keywords_or_a_mapping_as_for_the_client(explainers):
    tiny = explainers["scrambled"]
    x = np.random.default_rng(1).standard_normal((2, *tiny.model.cells.shape)).astype(np.float32)
    named = tiny.explain(x, "integrated_gradients", n_steps=7)
    mapped = tiny.explain(x, "integrated_gradients", parameters={"n_steps": 7})
    assert named.parameters["n_steps"] == mapped.parameters["n_steps"] == 7
    assert named.cells.tobytes() == mapped.cells.tobytes()
    with pytest.raises(ParameterError, match="'n_steps': expected once"):
        tiny.explain(x, "integrated_gradients", parameters={"n_steps": 7}, n_steps=8)
