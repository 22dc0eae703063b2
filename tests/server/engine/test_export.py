from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests import families
from tests.exporting import SAME_KERNELS, differences, off, on_reference, on_runtime, proto_of
from tonescope_server import Explainer, plugin
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.engine.export import exported
from tonescope_server.engine.export_metadata import PREFIX, read_metadata
from tonescope_server.errors import (
    ConfigurationError,
    MethodNotApplicableError,
    ModelError,
    ParameterError,
    TargetError,
    TonescopeError,
)
from tonescope_server.plugin import GraphMethod
from tonescope_server.testing import tiny_models, tiny_windows
from tonescope_server.types import Target

# Other kernels, and sums in another order: NumPy's, or those of another form of the same arithmetic.
OTHER_KERNELS = 2e-5
GRAPH_METHODS = sorted(n for n, m in installed_plugins().methods.items() if isinstance(m, GraphMethod))
OTHERS = sorted(set(installed_plugins().methods) - set(GRAPH_METHODS))
CHEAP = {
    "expected_gradients": {"n": 40},
    "integrated_gradients": {"n_steps": 70},
    "temporal_difference": {"n_steps": 10},
    "timing": {"n": 40},
}
NEEDS_A_PREVIOUS_WINDOW = {"temporal_difference"}


def make(explainer, method, target=None, *, inputs=(), plain=False, **parameters):
    prepared = explainer.prepare(method, target, CHEAP.get(method, {}) | parameters)
    return prepared, exported(explainer, prepared, inputs=inputs, plain=plain)


def fed(prepared, x):
    """Return what a graph is fed, and what the daemon is told beside the windows."""
    feeds = {prepared.plan.session.inputs[0]: x}
    if prepared.method.name not in NEEDS_A_PREVIOUS_WINDOW:
        return feeds, None
    previous = np.roll(x, 1, axis=-1)
    previous[0] = np.nan  # before the first there is none
    return feeds | {"previous": previous}, previous


def applies(explainer, method):
    if why := explainer.applicability()[method]:
        pytest.skip(why)


@pytest.mark.parametrize(
    ("model", "plain"), [*((m, False) for m in tiny_models()), ("conv_1d", True), ("conv_2d", True)]
)
@pytest.mark.parametrize("method", GRAPH_METHODS)
def test_an_exported_graph_gives_what_explain_gives_for_any_batch(explainers, method, model, plain):
    explainer = explainers[model]
    applies(explainer, method)
    prepared, made = make(explainer, method, plain=plain)
    proto = proto_of(made)
    onnx.checker.check_model(proto, full_check=True)
    assert {each.domain for each in (*proto.graph.node, *proto.opset_import)} <= {""}
    assert {o.type.tensor_type.shape.dim[0].dim_param for o in proto.graph.output} == {"batch"}
    assert list(made.outputs) == [o.name for o in proto.graph.output]
    assert list(made.inputs) == [i.name for i in proto.graph.input]
    for count in (1, 5):
        feeds, previous = fed(prepared, tiny_windows(explainer.model, count))
        want = prepared.run(tiny_windows(explainer.model, count), previous=previous)
        assert off(on_runtime(proto, **feeds), want) <= (OTHER_KERNELS if plain else SAME_KERNELS)


@pytest.mark.parametrize("model", ["conv_1d", "attention"])
@pytest.mark.parametrize("method", GRAPH_METHODS)
def test_an_exported_graph_runs_in_the_reference_evaluator(explainers, method, model):
    explainer = explainers[model]
    applies(explainer, method)
    prepared, made = make(explainer, method)
    feeds, previous = fed(prepared, tiny_windows(explainer.model, 2))
    want = prepared.run(tiny_windows(explainer.model, 2), previous=previous)
    assert off(on_reference(proto_of(made), **feeds), want) <= OTHER_KERNELS


@pytest.mark.parametrize("family", ["LSTM", "GRU"])
def test_plain_forms_of_recurrent_layers_run_in_the_reference_evaluator(tmp_path, family):
    onnx.save(families.recurrent(family), tmp_path / "model.onnx")
    explainer = Explainer.load(tmp_path / "model.onnx")
    x = tiny_windows(explainer.model, 2)
    for method in ("input_x_gradient", "deep_lift", "lrp"):
        prepared, made = make(explainer, method, plain=True)
        assert off(on_reference(proto_of(made), **fed(prepared, x)[0]), prepared.run(x)) <= OTHER_KERNELS
        prepared, made = make(explainer, method)
        assert off(on_runtime(proto_of(made), **fed(prepared, x)[0]), prepared.run(x)) <= SAME_KERNELS


@pytest.mark.parametrize("method", OTHERS)
def test_a_method_that_is_no_graph_is_refused_by_name(explainers, method):
    with pytest.raises(MethodNotApplicableError, match=f"^method '{method}' cannot be exported: it asks") as refused:
        explainers["mlp"].export("never.onnx", method)
    assert "\n" not in str(refused.value)


# -- what a method is fed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "runs"),
    [
        ({"rule": "trapezoid", "n_steps": 9}, 1),
        ({"rule": "riemann_trapezoid", "n_steps": 9}, 1),
        ({"n_steps": 200}, 4),
        ({"rule": "adaptive", "max_steps": 128}, 6),
        ({"rule": "progressive", "max_steps": 128}, 5),
        ({"baseline": "blurred", "n_steps": 9}, 1),
        ({"baseline": "random", "n_steps": 9}, 1),
        ({"baseline": 1.5, "n_steps": 9}, 1),
    ],
)
def test_every_quadrature_and_baseline_is_one_graph(explainers, parameters, runs):
    explainer = explainers["complex"]
    prepared, made = make(explainer, "integrated_gradients", **parameters)
    assert made.runs == runs
    for seed in (1, 2):
        x = tiny_windows(explainer.model, 4, seed=seed)
        assert off(on_runtime(proto_of(made), **fed(prepared, x)[0]), prepared.run(x)) <= SAME_KERNELS


def test_windows_that_have_converged_take_no_more_nodes_in_a_graph_either(explainers):
    explainer = explainers["scrambled"]
    prepared, made = make(explainer, "integrated_gradients", rule="adaptive", max_steps=64, tolerance=1e-5)
    x = tiny_windows(explainer.model, 8) * np.array([0.1, 3] * 4, np.float32).reshape(-1, 1, 1)
    steps = on_runtime(proto_of(made), **fed(prepared, x)[0])["map:n_steps"]
    np.testing.assert_array_equal(steps, prepared.run(x).maps["n_steps"])
    assert len(set(steps.tolist())) > 1


def test_weights_are_in_a_graph_once_however_many_runs_it_stands_for(explainers):
    explainer = explainers["complex"]
    (_, one), (_, many) = (make(explainer, "integrated_gradients", n_steps=n) for n in (60, 600))
    assert (one.runs, many.runs) == (1, 10)
    sizes = [
        sum(v.const_value.nbytes for v in made.graph.graph.initializers.values() if v.const_value.nbytes > 9000)
        for made in (one, many)
    ]
    assert sizes[0] == sizes[1] > 0


def longest_path(graph):
    steps = {}
    for node in graph:
        steps[node] = 1 + max((steps[v.producer()] for v in node.inputs if v is not None and v.producer()), default=0)
    return max(steps.values())


@pytest.mark.parametrize("parameters", [{"n_steps": 600}, {"rule": "adaptive", "max_steps": 128}], ids=str)
def test_runs_follow_each_other_so_that_their_memory_is_not_needed_all_at_once(explainers, parameters):
    (_, one), (_, many) = (
        make(explainers["complex"], "integrated_gradients", **p) for p in ({"n_steps": 60}, parameters)
    )
    assert one.runs == 1
    assert longest_path(many.graph.graph) > 0.8 * many.runs * longest_path(one.graph.graph)


def test_the_pass_at_the_windows_is_shared_by_all_references(explainers):
    background = tiny_windows(explainers["scrambled"].model, 6, seed=3)
    _, made = make(explainers["scrambled"], "deep_shap", background=background)
    _, one = make(explainers["scrambled"], "deep_shap", background=background[:1])
    count = [sum(node.op_type == "Tanh" for node in each.graph.graph) for each in (one, made)]
    assert count == [1 + 1, 1 + 6]


def test_noise_is_an_input_that_whoever_runs_the_graph_draws(explainers):
    explainer = explainers["conv_1d"]
    x = tiny_windows(explainer.model, 3)
    prepared, made = make(explainer, "smoothgrad", inputs=None, n=40, seed=7)
    (named,) = [i for i in proto_of(made).graph.input if i.name == "noise"]
    assert [d.dim_value for d in named.type.tensor_type.shape.dim] == [40, 56, 6]
    drawn = np.stack([plugin.generator(7, "noise", i).standard_normal((56, 6)) for i in range(40)]).astype(np.float32)
    feeds = fed(prepared, x)[0]
    assert off(on_runtime(proto_of(made), **feeds, noise=drawn), prepared.run(x)) <= SAME_KERNELS
    double = explainer.prepare("smoothgrad", None, {"n": 40, "seed": 7, "noise_level": 0.3})
    assert off(on_runtime(proto_of(made), **feeds, noise=2 * drawn), double.run(x)) <= SAME_KERNELS


def test_noise_of_ones_own_is_constant_unless_it_is_left_open(explainers):
    explainer = explainers["conv_1d"]
    x, noise = tiny_windows(explainer.model, 3), tiny_windows(explainer.model, 4, seed=5)
    prepared, made = make(explainer, "smoothgrad", inputs=None, noise=noise)
    assert list(made.inputs) == ["csi"]
    assert off(on_runtime(proto_of(made), csi=x), prepared.run(x)) <= SAME_KERNELS
    _, left = make(explainer, "smoothgrad", inputs=["noise"], noise=noise)
    assert off(on_runtime(proto_of(left), csi=x, noise=noise), prepared.run(x)) <= SAME_KERNELS


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
def test_a_baseline_can_be_left_open(explainers, method):
    explainer = explainers["conv_1d"]
    x, baseline = tiny_windows(explainer.model, 3), tiny_windows(explainer.model, 1, seed=8)
    _, made = make(explainer, method, inputs=["baseline"])
    want = explainer.prepare(method, None, CHEAP.get(method, {}) | {"baseline": baseline}).run(x)
    assert off(on_runtime(proto_of(made), csi=x, baseline=baseline), want) <= SAME_KERNELS


def test_an_input_that_a_method_does_not_have_is_refused(explainers):
    said = "^method 'deep_lift' has no input 'noise' to leave open; it has baseline$"
    with pytest.raises(ParameterError, match=said):
        make(explainers["mlp"], "deep_lift", inputs=["noise"])


# -- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        2,
        "many",
        Target.element(0, "confidence"),
        Target.mean(),
        Target.sum((0, 2)),
        Target.log_probability(1),
        Target.negative_log_likelihood(),
        Target.difference(Target.element(0), Target.element(2)),
        Target.difference(Target.predicted(), Target.element(0, "confidence")),
    ],
    ids=lambda target: target.kind.value if isinstance(target, Target) else str(target),
)
@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "deep_lift"])
def test_a_graph_finds_its_target_itself(explainers, method, target):
    explainer = explainers["conv_1d"]
    prepared, made = make(explainer, method, target)
    x = tiny_windows(explainer.model, 5)
    assert len(set(explainer.predict(x).class_index.tolist())) > 1
    assert off(on_runtime(proto_of(made), csi=x), prepared.run(x)) <= SAME_KERNELS


def test_a_target_for_each_window_is_refused(explainers):
    with pytest.raises(TargetError, match="expected one for all windows of an exported graph, got one for each"):
        explainers["conv_1d"].export("never.onnx", target=np.array([0, 1]))


# -- what is written -------------------------------------------------------------------------------------------------


def test_metadata_says_what_explains_what(explainers, tmp_path):
    explainer = explainers["conv_1d"]
    explainer.export(tmp_path / "out.onnx", "integrated_gradients", 1, n_steps=10)
    proto = onnx.load(tmp_path / "out.onnx")
    found = read_metadata({each.key: each.value for each in proto.metadata_props})
    answer = explainer.explain(tiny_windows(explainer.model, 1), "integrated_gradients", 1, n_steps=10)
    assert found["format_version"] == 1
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", found["version"])
    assert proto.producer_version == found["version"]
    assert found["model"] == f"{explainer.model.name}/{explainer.model.version}"
    assert found["model_digest"] == explainer.model.digest
    assert found["method"] == "integrated_gradients"
    assert found["parameters"] == answer.parameters
    assert found["target"] == {"kind": "element", "output": "count", "index": 1}
    assert found["rule_set"] == answer.rule_set == "standard"
    assert found["evaluations"] == answer.evaluations
    assert found["classes"]["count"] == ["none", "one", "many"]
    table = found["tone_table"]
    assert table["id"] == "ruview56"
    assert [row["subcarrier_index"] for row in table["rows"]] == [t.subcarrier_index for t in explainer.model.table]
    assert [row["kind"] for row in table["rows"]] == [t.kind for t in explainer.model.table]
    assert set(found["outputs"]) == {o.name for o in proto.graph.output}
    assert set(found["inputs"]) == {i.name for i in proto.graph.input}
    assert found["warnings"] == [{"code": w.code, "message": w.message} for w in answer.warnings if w.window is None]


def test_parameters_that_were_left_open_are_stated_as_they_came_out(explainers):
    _, made = make(explainers["conv_1d"], "grad_cam")
    stated = json.loads(made.graph.metadata_props[f"{PREFIX}parameters"])
    assert stated["layer"] is not None


def test_metadata_of_a_later_format_is_refused():
    with pytest.raises(ModelError, match="expected format version 1, got 2"):
        read_metadata({f"{PREFIX}format_version": "2"})


def test_the_same_request_writes_the_same_bytes(explainers, tmp_path):
    for name in ("one", "two"):
        explainers["conv_1d"].export(tmp_path / f"{name}.onnx", "lrp")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(explainers, tmp_path):
    with pytest.raises(ConfigurationError, match=r"out\.onnx: cannot be written: No such file or directory$"):
        explainers["mlp"].export(tmp_path / "nowhere" / "out.onnx")
    (tmp_path / "out.onnx").mkdir()
    with pytest.raises(ConfigurationError, match=r"out\.onnx: cannot be written"):
        explainers["mlp"].export(tmp_path / "out.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]


def test_weights_that_no_onnx_file_can_hold_are_refused(explainers, tmp_path, monkeypatch):
    monkeypatch.setattr("tonescope_server.engine.export.MOST_BYTES", 1000)
    with pytest.raises(ModelError, match=r"expected at most 2 GB in one ONNX file, got \S+ GB of weights"):
        explainers["mlp"].export(tmp_path / "out.onnx")


def test_outputs_of_the_model_that_go_by_the_name_of_a_result_are_told_apart(tmp_path):
    x = ir.Value(name="noise", shape=ir.Shape(["batch", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18}, name="clashing")
    tape = ir.tape.Tape(graph)
    weights = tape.initializer(ir.tensor(np.eye(3, 2, dtype=np.float32), name="baseline"))
    inner = tape.op("MatMul", [x, weights])
    inner.name = "tones"
    cells = tape.op("Tanh", [inner])
    cells.name, cells.shape, cells.type = "cells", ir.Shape(["batch", 2]), x.type
    graph.outputs.append(cells)
    ir.save(ir.Model(graph, ir_version=9), tmp_path / "clashing.onnx")
    explainer = Explainer.load(tmp_path / "clashing.onnx")
    prepared, made = make(explainer, "integrated_gradients", inputs=["baseline"], n_steps=9)
    proto = proto_of(made)
    onnx.checker.check_model(proto, full_check=True)
    x = tiny_windows(explainer.model, 4)
    found = on_runtime(proto, noise=x, baseline=np.zeros((1, 3), np.float32))
    want = prepared.run(x)
    np.testing.assert_allclose(found["output:cells"], want.prediction.outputs["cells"], rtol=1e-6)
    np.testing.assert_allclose(found["cells"], want.cells, rtol=1e-5, atol=1e-6)


def test_an_input_of_the_model_that_goes_by_the_name_of_one_of_the_methods_is_told_apart(tmp_path):
    net = families.Net(12)
    onnx.save(net.model(net.linear("x", "out", 12, families.CLASSES)), tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    proto.graph.input[0].name = "previous"
    for node in proto.graph.node:
        node.input[:] = ["previous" if name == "x" else name for name in node.input]
    onnx.save(proto, tmp_path / "model.onnx")
    explainer = Explainer.load(tmp_path / "model.onnx")
    _, made = make(explainer, "temporal_difference")
    assert list(made.inputs) == ["previous", "method:previous"]
    onnx.checker.check_model(proto_of(made), full_check=True)


# -- methods of others -----------------------------------------------------------------------------------------------


class Halved(GraphMethod):
    """A method that finishes in NumPy, and knows nothing of exporting."""

    name = "halved"
    summary = "Half the gradient, less its mean."

    def describe(self, tape, parameters):
        tape.result("gradient", tape.evaluate().gradient)

    def finish(self, totals, windows, parameters):
        half = totals["gradient"] / 2
        return plugin.Estimate(half - half.mean(axis=(1, 2), keepdims=True), maps={"x": windows.x.max(axis=(1, 2))})


def test_a_method_that_finishes_in_numpy_exports_as_it_is(explainer_with):
    explainer = explainer_with(Halved())
    prepared, made = make(explainer, "halved")
    x = tiny_windows(explainer.model, 4)
    assert differences(on_runtime(proto_of(made), csi=x), prepared.run(x))["tones"] <= SAME_KERNELS
    assert off(on_runtime(proto_of(made), csi=x), prepared.run(x)) <= SAME_KERNELS


def chooses(totals):
    return totals["gradient"] if totals["gradient"].max() > 0 else -totals["gradient"]


def sorts(totals):
    return np.sort(totals["gradient"], axis=1)


def counts_wrong(totals):
    return totals["gradient"].no_such_method()


@pytest.mark.parametrize("finish", [chooses, sorts, counts_wrong])
def test_what_a_graph_cannot_say_is_refused_in_one_line(explainer_with, finish):
    class Odd(Halved):
        name = "odd"

        def finish(self, totals, windows, parameters):
            return plugin.Estimate(finish(totals))

    with pytest.raises(MethodNotApplicableError, match=r"^method 'odd' cannot be exported: ") as refused:
        make(explainer_with(Odd()), "odd")
    assert "\n" not in str(refused.value)


def test_operators_that_are_not_standard_are_refused(explainers):
    model = explainers["mlp"].model
    graph = model.graph.clone()
    graph.opset_imports["com.example"] = 1
    next(iter(graph.graph)).domain = "com.example"
    explainer = Explainer(replace(model, graph=graph), installed_plugins())
    prepared = explainers["mlp"].prepare("saliency")
    with pytest.raises(TonescopeError, match=r"not standard operators: com\.example"):
        exported(explainer, prepared)
