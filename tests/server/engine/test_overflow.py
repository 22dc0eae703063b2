"""What is not finite, and whose doing it is: the model's own is told as such, a method's is an error that names it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.engine.vetting import OVERFLOW
from tonescope_server.errors import PluginError

METHODS = ("input_x_gradient", "saliency", "integrated_gradients", "smoothgrad")


@pytest.fixture
def model(tmp_path):
    """Make a model of four features and one output by an operator's name."""

    def make(op):
        nodes = [helper.make_node(op, ["x"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
        info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 4), ("y", 1))]
        weights = [numpy_helper.from_array(np.ones((4, 1), np.float32), "w")]
        graph = helper.make_graph(nodes, "g", info[:1], info[1:], weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(made, tmp_path / f"{op}.onnx")
        return Explainer.load(tmp_path / f"{op}.onnx")

    return make


def told(result):
    return [(each.window, each.message.partition(" is not")[0]) for each in result.warnings if each.code == OVERFLOW]


@pytest.mark.parametrize("method", METHODS)
def test_a_score_that_overflows_is_the_models_own_and_said_of_that_window_alone(model, method):
    x = np.ones((3, 4), np.float32)
    x[1] = 100.0  # exp(100) is beyond float32
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is what this is about
        result = model("Exp").explain(x, method)
    assert told(result) == [(1, "the model's score")]
    assert not np.isfinite(result.tones[1]).all()
    assert np.isfinite(result.tones[[0, 2]]).all()


def test_a_gradient_that_is_infinite_where_the_score_is_not_is_the_models_own_too(model):
    x = np.ones((3, 4), np.float32)
    x[2, 1] = 0.0  # the square root has no slope at zero
    result = model("Sqrt").explain(x, "input_x_gradient")
    assert np.isfinite(result.score).all()
    assert told(result) == [(2, "the model's gradient")]


@pytest.mark.parametrize("name", ["cells", "tones"])
def test_what_is_not_finite_though_the_model_is_is_the_methods_and_names_it_and_the_window(model, name):
    from dataclasses import replace

    from tonescope_server import plugin

    class Divides(plugin.ProceduralMethod):
        name = "divides"
        summary = "Divides by nothing."

        def attribute(self, given, windows, parameters):
            wrong = np.ones((len(windows.x), 4), np.float32)
            wrong[1, 3] = np.inf
            right = np.ones_like(wrong)
            return plugin.Estimate(wrong if name == "cells" else right, right if name == "cells" else wrong)

    explainer = model("Exp")
    explainer.host = replace(installed_plugins(), methods={"divides": Divides()})
    x = np.ones((3, 4), np.float32)
    with pytest.raises(PluginError, match=rf"^method 'divides': {name} of window 1 are not finite \(inf at \(3,\)\), "):
        explainer.explain(x, "divides")
    x[1] = 100.0
    assert told(explainer.explain(x, "divides")) == [(1, "the model's score")]


def test_large_attributions_are_no_overflow(model):
    x = np.full((2, 4), 80.0, np.float32)  # 80 · exp(80) ≈ 4e36: its square is not finite
    result = model("Exp").explain(x, "input_x_gradient")
    assert told(result) == []
    assert np.isfinite(result.tones).all()
