"""A request, prepared: what it checks, how it is stopped, and what a result says of itself."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, fields, replace

import numpy as np
import pytest
from pydantic import Field

from tonescope_server import Explainer, plugin
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.tones import tone_table
from tonescope_server.engine.plan import PlanCache
from tonescope_server.errors import DeadlineError, MethodNotApplicableError, ModelError, ParameterError, PluginError
from tonescope_server.models.loading import load_model
from tonescope_server.testing import tiny_models, tiny_windows


def windows(model="scrambled", count=5):
    return tiny_windows(tiny_models()[model], count)


# -- stopping ---------------------------------------------------------------------------------------------------


class Stop:
    """Lets a number of chunks pass, then raises."""

    def __init__(self, after):
        self.left = after

    def __call__(self):
        self.left -= 1
        if self.left < 0:
            raise DeadlineError("the caller's deadline passed before the work was done")


@pytest.mark.parametrize(("method", "parameters"), [("integrated_gradients", {"n_steps": 256}), ("occlusion", {})])
def test_a_check_between_chunks_ends_the_run(explainers, method, parameters):
    prepared = explainers["scrambled"].prepare(method, None, parameters)
    for after in (0, 2):
        stop = Stop(after)
        with pytest.raises(DeadlineError, match="deadline passed"):
            prepared.run(windows(), stop)
        assert stop.left == -1  # nothing was evaluated after it said stop
    assert np.isfinite(prepared.run(windows()).tones).all()


@pytest.mark.parametrize("method", ["saliency", "occlusion", "integrated_gradients"])
def test_a_long_batch_is_checked_between_its_parts(explainers, method):
    calls = []
    explainers["scrambled"].prepare(method).run(windows(count=600), lambda: calls.append(1))
    assert len(calls) >= 3


# -- results ----------------------------------------------------------------------------------------------------


def test_a_result_says_how_it_can_be_had_again(explainers):
    explainer, x = explainers["scrambled"], windows()
    first = explainer.explain(x, "integrated_gradients", n_steps=7, baseline=np.full((10, 5), 0.5))
    assert first.method == "integrated_gradients"
    assert first.parameters["n_steps"] == 7
    assert first.parameters["rule"] == "gauss_legendre"
    assert first.rule_set == "standard"
    assert first.model_digest == tiny_models()["scrambled"].digest
    assert first.tone_layout == "unknown_10"
    assert first.compute_s > 0
    again = explainer.explain(x, first.method, first.target, **first.parameters)
    assert again.cells.tobytes() == first.cells.tobytes()


def test_a_method_without_gradients_has_no_rule_set(explainers):
    assert explainers["scrambled"].explain(windows(), "occlusion").rule_set == ""


def test_what_a_prepared_request_costs_is_measured(explainers):
    prepared = explainers["scrambled"].prepare("saliency")
    assert 0 < prepared.seconds_per_window < 1
    assert prepared.input_shape == (10, 5)
    assert prepared.parameters == {"absolute": True}


def test_evaluations_are_counted(explainers):
    x = windows()
    assert explainers["scrambled"].explain(x, "saliency").evaluations == 1
    assert explainers["scrambled"].explain(x, "integrated_gradients", n_steps=20).evaluations == 22
    assert explainers["scrambled"].explain(x, "integrated_gradients", n_steps=200).evaluations >= 200
    assert 11 <= explainers["scrambled"].explain(x, "occlusion").evaluations <= 13


@pytest.mark.parametrize("n_steps", [64, 65, 100, 128, 200])
def test_a_path_that_is_split_into_runs_is_the_whole_path(explainers, n_steps):
    """Gauss-Legendre on a smooth model: any of these is exact to float32, so that all must agree."""
    x = windows()
    one_run = explainers["scrambled"].explain(x, "integrated_gradients", n_steps=60)
    split = explainers["scrambled"].explain(x, "integrated_gradients", n_steps=n_steps)
    np.testing.assert_allclose(split.cells, one_run.cells, atol=1e-6)
    np.testing.assert_allclose(split.score, one_run.score, rtol=1e-6)
    np.testing.assert_allclose(split.prediction.scores, one_run.prediction.scores, rtol=1e-6)
    assert np.abs(split.convergence_delta).max() < 1e-5


# -- tones ------------------------------------------------------------------------------------------------------


def with_manifest(tmp_path, text, explainer_with, name="conv_1d"):
    """Return an explainer of a tiny model under another manifest."""
    import onnx_ir as ir

    ir.save(tiny_models()[name].graph, tmp_path / "model.onnx")
    (tmp_path / "model.toml").write_text(text)
    made = explainer_with(model=name)
    made.model = load_model(tmp_path)
    return type(made)(made.model, made.host)


def test_the_null_tone_share_is_the_part_of_the_cells_on_null_tones(explainers):
    model, x = tiny_models()["conv_1d"], windows("conv_1d")
    null = model.table.null_mask
    assert 0 < null.sum() < 56
    result = explainers["conv_1d"].explain(x, "input_x_gradient")
    mass = np.abs(result.cells).sum(axis=2)
    np.testing.assert_allclose(result.null_tone_share, mass[:, null].sum(axis=1) / mass.sum(axis=1), rtol=1e-5)
    by_tone = explainers["conv_1d"].explain(x, "subcarrier_saliency")
    mass = np.abs(by_tone.tones)
    np.testing.assert_allclose(by_tone.null_tone_share, mass[:, null].sum(axis=1) / mass.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("order", ["tone_frame", "frame_tone"])
@pytest.mark.parametrize("method", ["input_x_gradient", "subcarrier_saliency"])
def test_the_share_from_the_graph_is_the_share_of_its_results(explainer_with, tmp_path, order, method):
    text = f'input = {{ cell_order = "{order}" }}\nwindow = {{ frames = 6 }}\ntones = {{ layout = "ruview56" }}\n'
    explainer = with_manifest(tmp_path, text, explainer_with)
    result = explainer.explain(windows("conv_1d", 300), method)  # more windows than go into one run
    expected = explainer.null_sums.share(result.cells, result.tones)
    assert expected.std() > 0.01
    # Float32 sums over 336 cells in two orders.
    np.testing.assert_allclose(result.null_tone_share, expected, rtol=1e-5)


def test_the_share_is_of_the_null_tones_of_the_models_own_layout(explainers):
    """The same weights under a layout that knows of no null tones, and plans in one cache."""
    model, x = tiny_models()["conv_1d"], windows("conv_1d")
    table = tone_table("unknown_56")
    other = replace(model, table=table, cells=cell_map((56, 6), table, model.cells.cell_order, 6))
    cache = PlanCache()
    host = explainers["conv_1d"].host
    assert Explainer(model, host, cache=cache).explain(x).null_tone_share is not None
    assert Explainer(other, host, cache=cache).explain(x).null_tone_share is None


def test_attribution_on_null_tones_is_a_warning_for_that_window(explainers):
    model, x = tiny_models()["conv_1d"], windows("conv_1d")
    x[2, model.table.null_mask] = 0.0  # input x gradient is nothing there
    result = explainers["conv_1d"].explain(x, "input_x_gradient", 0)
    found = [w for w in result.warnings if w.code == "NULL_TONE_SHARE"]
    assert [w.window for w in found] == [0, 1, 3, 4]
    assert result.null_tone_share[2] == 0
    share = f"{result.null_tone_share[0]:.1%} of the attribution lies on tones that carry no signal"
    assert found[0].message.startswith(share)
    assert all("\n" not in w.message for w in found)


def test_a_window_without_any_attribution_has_no_null_share(explainers):
    result = explainers["conv_1d"].explain(np.zeros((1, 56, 6)), "input_x_gradient")
    assert np.isnan(result.null_tone_share[0])
    assert not [w for w in result.warnings if w.code == "NULL_TONE_SHARE"]


def test_a_layout_that_knows_no_null_tones_has_no_share(explainers):
    assert explainers["conv_2d"].explain(windows("conv_2d")).null_tone_share is None


def test_a_class_that_was_never_trained_is_a_warning_for_that_window(explainers):
    x = windows("conv_1d", 40)
    result = explainers["conv_1d"].explain(x, "saliency", 0)
    found = [w for w in result.warnings if w.code == "CLASS_NEVER_TRAINED"]
    expected = np.flatnonzero(result.prediction.class_index == 2)
    assert 0 < len(expected) < 40
    assert [w.window for w in found] == list(expected)
    assert "class 2 was predicted" in found[0].message


def test_results_hold_every_field_that_their_classes_have(explainers):
    result = explainers["conv_1d"].explain(windows("conv_1d", 2), "input_x_gradient")
    for made in (result, result.prediction, result.target):
        assert vars(made).keys() >= {f.name for f in fields(made) if f.default is MISSING}
        assert replace(made) is not made
        with pytest.raises(FrozenInstanceError):
            made.index = 3


def test_a_missing_input_is_told_as_the_models_error(explainers):
    session = explainers["conv_1d"].scoring(explainers["conv_1d"].resolve(None)).session
    with pytest.raises(ModelError, match=r"(?i)missing input"):
        session.run({})


def test_no_class_is_untrained_where_the_manifest_does_not_say(explainers):
    result = explainers["scrambled"].explain(windows("scrambled", 40), "saliency")
    assert result.prediction.untrained is None
    assert not result.warnings


def test_the_manifests_baseline_is_per_tone(explainers):
    """On the scrambled model: the same value in every cell of a tone, wherever the buffer has it."""
    model, x = tiny_models()["scrambled"], windows()
    cells = np.array(model.manifest.baseline.tones, np.float32)[model.cells.tone_of_cell].reshape(10, 5)
    named = explainers["scrambled"].explain(x, "integrated_gradients", baseline=cells)
    default = explainers["scrambled"].explain(x, "integrated_gradients")
    np.testing.assert_array_equal(default.cells, named.cells)
    zero = explainers["scrambled"].explain(x, "integrated_gradients", baseline=0.0)
    assert np.abs(zero.cells - default.cells).max() > 1e-3


def test_another_manifest_gives_another_fold(explainer_with, tmp_path):
    orders = {}
    for order in ("tone_frame", "frame_tone"):
        folder = tmp_path / order
        folder.mkdir()
        text = f'input = {{ cell_order = "{order}" }}\nwindow = {{ frames = 6 }}\ntones = {{ layout = "ruview56" }}\n'
        orders[order] = with_manifest(folder, text, explainer_with).explain(windows("conv_1d"))
    np.testing.assert_array_equal(orders["tone_frame"].cells, orders["frame_tone"].cells)
    flat = orders["tone_frame"].cells.reshape(5, -1)
    np.testing.assert_allclose(orders["tone_frame"].tones, flat.reshape(5, 56, 6).sum(axis=2), atol=1e-6)
    np.testing.assert_allclose(orders["frame_tone"].tones, flat.reshape(5, 6, 56).sum(axis=1), atol=1e-6)


# -- parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("integrated_gradients", {"n_steps": 1}, r"'n_steps': Input should be greater than or equal to 2, got 1"),
        ("integrated_gradients", {"n_steps": 10**6}, r"'n_steps': Input should be less than or equal to 4096"),
        ("integrated_gradients", {"n_steps": "many"}, r"'n_steps': Input should be a valid integer.*got 'many'"),
        ("integrated_gradients", {"rule": "simpson"}, r"'rule': Input should be 'gauss_legendre', .*got 'simpson'"),
        ("integrated_gradients", {"steps": 3}, r"method 'integrated_gradients' has no parameter 'steps'"),
        ("occlusion", {"size": 0}, r"'size': Input should be greater than or equal to 1, got 0"),
        ("occlusion", {"fill": "noise"}, r"'fill': Input should be 'baseline', 'zero' or 'mean', got 'noise'"),
        ("saliency", {"absolute": "perhaps"}, r"'absolute': Input should be a valid boolean"),
    ],
)
def test_a_parameter_that_is_unknown_or_out_of_range_is_refused(explainers, method, parameters, message):
    with pytest.raises(ParameterError, match=message) as caught:
        explainers["scrambled"].prepare(method, None, parameters)
    assert "\n" not in str(caught.value)


def test_a_long_wrong_value_is_cut_short(explainers):
    with pytest.raises(ParameterError) as caught:
        explainers["scrambled"].prepare("saliency", None, {"absolute": "x" * 5000})
    assert len(str(caught.value)) < 300


# -- plugins that fail ------------------------------------------------------------------------------------------


class Procedure(plugin.ProceduralMethod):
    name = "failing"
    summary = "Fails."

    def __init__(self, attribute):
        self._attribute = attribute

    def attribute(self, model, windows, parameters):
        return self._attribute(model, windows)


def raising(error):
    def attribute(model, windows):
        raise error

    return attribute


def estimate(**fields):
    return lambda model, windows: plugin.Estimate(**{"cells": None, **fields})


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (raising(RuntimeError("two\nlines")), r"^method 'failing' failed: RuntimeError: two$"),
        (raising(KeyError()), r"^method 'failing' failed: KeyError: $"),
        (lambda model, windows: None, r"^method 'failing': expected an Estimate, got NoneType$"),
        (raising(SystemExit(3)), r"^method 'failing' failed: SystemExit: 3$"),
        (estimate(), r"^method 'failing' gave neither cells nor tones$"),
        (
            estimate(cells=np.zeros((5, 3), np.float32)),
            r"'failing': expected cells of shape \(5, 10, 5\), got \(5, 3\)",
        ),
        (estimate(tones=np.zeros((5, 3), np.float32)), r"'failing': expected tones of shape \(5, 10\), got \(5, 3\)"),
        (lambda model, windows: windows.x.__setitem__(0, 1.0), r"failed: ValueError: .*read-only"),
        (lambda model, windows: windows.baseline.__setitem__(0, 1.0), r"failed: ValueError: .*read-only"),
        (lambda model, windows: model.score(windows.x[:, :2], np.arange(5)), r"ONNX Runtime could not run the graph"),
    ],
)
def test_a_plugin_that_fails_is_one_line_and_harms_nobody(explainer_with, attribute, message):
    explainer, x = explainer_with(Procedure(attribute)), windows()
    want = explainer.explain(x, "integrated_gradients").tones
    with pytest.raises(Exception, match=message) as caught:
        explainer.explain(x, "failing")
    assert caught.type.__name__ in ("PluginError", "ModelError")
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(explainer.explain(x, "integrated_gradients").tones, want)


def test_what_our_own_errors_say_is_left_as_it_is(explainer_with):
    explainer = explainer_with(Procedure(raising(MethodNotApplicableError("no attention in this model"))))
    with pytest.raises(MethodNotApplicableError, match=r"^no attention in this model$"):
        explainer.explain(windows(), "failing")


class Describing(plugin.GraphMethod):
    name = "describing"
    summary = "Fails while it describes itself."


def test_a_plugin_that_fails_to_describe_itself_is_one_line(explainer_with):
    class Raises(Describing):
        def describe(self, tape, parameters):
            raise ZeroDivisionError("by\nzero")

    class Unhashable(Describing):
        def graph_key(self, parameters):
            return ([],)

    for method, message in (
        (Raises(), r"^method 'describing' failed: ZeroDivisionError: by$"),
        (Describing(), r"^method 'describing' failed: TypeError: .*needs describe\(\)$"),
        (Unhashable(), r"^method 'describing' failed: TypeError: "),
    ):
        with pytest.raises(PluginError, match=message):
            explainer_with(method).explain(windows(), "describing")


def test_a_graph_method_that_never_evaluates_the_model_is_refused(explainer_with):
    class Blind(Describing):
        def describe(self, tape, parameters):
            tape.result("cells", tape.x * 2.0)

    with pytest.raises(PluginError, match="method 'describing'"):
        explainer_with(Blind()).explain(windows(), "describing")


def test_something_that_is_no_method_is_refused(explainer_with):
    class Neither:
        name = "neither"
        summary = "Nothing."
        source = ""
        requirement = plugin.Requirement.PREDICTIONS
        complete = False
        Parameters = plugin.Parameters

    with pytest.raises(MethodNotApplicableError, match="'neither' is neither a GraphMethod nor a ProceduralMethod"):
        explainer_with(Neither()).explain(windows(), "neither")


# -- what a procedural method may ask ---------------------------------------------------------------------------


def test_a_procedural_methods_prediction_is_the_class_of_the_window(explainer_with):
    """Points far away predict other classes; their score is still that of the window's own class."""
    seen = {}

    def attribute(model, given):
        seen["far"] = model.score(-3 * given.x, np.arange(5))
        seen["mixed"] = model.score(given.x[[0, 0, 4]], np.array([0, 4, 4]))
        return plugin.Estimate(np.zeros_like(given.x))

    explainer, x = explainer_with(Procedure(attribute)), windows()
    result = explainer.explain(x, "failing")
    scores, far = explainer.predict(x).scores, explainer.predict(-3 * x).scores
    classes = scores.argmax(axis=1)
    assert (far.argmax(axis=1) != classes).any()
    np.testing.assert_allclose(seen["far"], far[np.arange(5), classes], rtol=1e-5)
    np.testing.assert_allclose(
        seen["mixed"], [scores[0, classes[0]], scores[0, classes[4]], scores[4, classes[4]]], rtol=1e-5
    )
    np.testing.assert_allclose(result.score, scores.max(axis=1), rtol=1e-5)


def test_a_point_is_scored_by_the_target_of_the_window_it_belongs_to(explainer_with):
    found = []

    def attribute(model, given):
        found.append(model.score(given.x[[0, 0, 0, 3]], np.array([4, 2, 0, 1])))
        return plugin.Estimate(np.zeros_like(given.x))

    explainer, x = explainer_with(Procedure(attribute)), windows()
    explainer.explain(x, "failing", np.array([0, 1, 2, 0, 1]))
    scores = explainer.predict(x).scores
    np.testing.assert_allclose(found[0], [scores[0, 1], scores[0, 2], scores[0, 0], scores[3, 1]], rtol=1e-5)


def test_a_procedural_method_sees_the_map_of_cells_and_its_parameters(explainer_with):
    class Looking(plugin.ProceduralMethod):
        name = "looking"
        summary = "Looks."

        class Parameters(plugin.Parameters):
            depth: int = Field(3, description="How deep it looks.")

        def attribute(self, model, given, parameters):
            seen.append((given, parameters))
            return plugin.Estimate(given.x, units=np.ones((len(given.x), 2), np.float32))

    seen = []
    result = explainer_with(Looking()).explain(windows(), "looking", depth=4)
    given, parameters = seen[0]
    cells = tiny_models()["scrambled"].cells
    assert (given.n_tones, parameters.depth) == (10, 4)
    np.testing.assert_array_equal(given.tone_of_cell, cells.tone_of_cell)
    np.testing.assert_array_equal(given.frame_of_cell, cells.frame_of_cell)
    np.testing.assert_array_equal(given.rows, np.arange(5))
    np.testing.assert_array_equal(result.units, np.ones((5, 2)))
    np.testing.assert_allclose(result.tones, cells.fold(windows()), atol=1e-6)


# -- what a method may ask of the engine ------------------------------------------------------------------------------


class LastConvolution(plugin.GraphMethod):
    """Reads the last convolution of a model, and says which one that was and what it is."""

    name = "last_convolution"
    summary = "The mean of the last convolution's gradient, on every tone."

    def taps(self, layers, parameters):
        found = [layer.name for layer in layers if layer.op_type == "Conv"]
        if not found:
            raise MethodNotApplicableError("the model has no convolution")
        return found[-1:]

    def describe(self, tape, parameters):
        at_input, at_layer = tape.evaluate_at([tape.x.value.name, *tape.taps])
        tape.result("cells", at_input.gradient)
        tape.result("layer", at_layer.gradient)

    def finish(self, totals, windows, parameters):
        return plugin.Estimate(totals["cells"], maps={"layer": totals["layer"]})


def test_a_method_taps_the_layers_it_chooses(explainer_with):
    explainer, x = explainer_with(LastConvolution(), model="conv_1d"), windows("conv_1d", 300)
    last = [layer.name for layer in explainer.layers() if layer.op_type == "Conv"][-1]
    result = explainer.explain(x, "last_convolution", 1)  # more windows than go into one run
    expected = explainer.gradient(x, 1, at=["input", last])
    np.testing.assert_allclose(result.cells, expected["input"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.maps["layer"], expected[last], rtol=1e-5, atol=1e-7)


def test_a_method_that_finds_no_layer_of_its_kind_says_so_before_it_runs(explainer_with):
    explainer = explainer_with(LastConvolution(), model="mlp")
    assert explainer.applicability()["last_convolution"] == "the model has no convolution"
    with pytest.raises(MethodNotApplicableError, match="the model has no convolution"):
        explainer.prepare("last_convolution")


class UntilSmall(plugin.GraphMethod):
    """Adds halves of the gradient until what a run adds is below an eighth of it; it goes by the results it is sent."""

    name = "until_small"
    summary = "Twice the gradient, nearly."

    def describe(self, tape, parameters):
        tape.result("cells", tape.evaluate().gradient * tape.feed_var("part", (1,) * len(tape.x.shape)))

    def feeds(self, windows, parameters):
        part, first = np.ones((1,) * windows.x.ndim, np.float32), None
        while True:
            largest = np.abs((yield {"part": part})["cells"]).max()
            first = first or largest
            if largest < first / 8:
                return
            part = part / 2


def test_a_method_is_sent_the_results_of_every_run(explainer_with):
    explainer, x = explainer_with(UntilSmall(), model="mlp"), windows("mlp")
    result = explainer.explain(x, "until_small", 0)
    np.testing.assert_allclose(result.cells, explainer.gradient(x, 0) * (2 - 1 / 16), rtol=1e-5)
    assert result.evaluations == 5


class GradientByCalls(plugin.ProceduralMethod):
    name = "gradient_by_calls"
    summary = "The gradient, asked for at any points."

    def attribute(self, model, windows, parameters):
        return plugin.Estimate(model.gradient(windows.x[::-1].copy(), windows.rows[::-1].copy())[::-1].copy())


def test_a_procedure_may_ask_for_gradients_at_any_points(explainer_with):
    explainer, x = explainer_with(GradientByCalls(), model="conv_1d"), windows("conv_1d")
    assert len(set(explainer.predict(x).class_index)) > 1  # each point is differentiated for its own window's class
    np.testing.assert_allclose(explainer.explain(x, "gradient_by_calls").cells, explainer.gradient(x), rtol=1e-5)
