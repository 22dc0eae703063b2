"""The pictures of ``evaluate`` draw what was found: bars as long as the metrics, random ones beside them, curves."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server import Explainer
from tonescope_server.cli.evaluation_pictures import bars_figure, curves_figure
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.reports.evaluation.evaluation import Plan, evaluate
from tonescope_server.testing import tiny_models, tiny_windows

METHODS = ("saliency", "integrated_gradients")


@pytest.fixture(scope="module")
def found():
    explainer = Explainer(tiny_models()["conv_1d"], installed_plugins())
    plan = Plan(METHODS, ("insertion", "parameter_randomisation", "sparseness"), draws=19)
    return evaluate(explainer, tiny_windows(explainer.model, 3), plan)


def test_bars_are_as_long_as_the_metrics_and_have_the_colour_of_what_chance_says(found):
    panels = [axes for axes in bars_figure(found, "x.csi.jsonl").axes if axes.get_visible()]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["insertion (target) ↑", "parameter_randomisation ↓", "sparseness ↑"]
    for axes, name in zip(panels, found.plan.metrics, strict=True):
        judged = [each.judgements[name] for each in found.methods]
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [each.mean for each in judged])
        blue = [bar.get_facecolor()[2] > bar.get_facecolor()[0] + 0.4 for bar in axes.patches]
        assert blue == [each.is_told_from_chance for each in judged], name
        assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS)


def test_curves_are_the_means_of_each_method_over_a_band_of_random_ones(found):
    figure = curves_figure(found, "x.csi.jsonl")
    insertion, similarity = (axes for axes in figure.axes if axes.get_visible())
    lines = {line.get_label(): line.get_ydata() for line in insertion.lines}
    for each in found.methods:
        np.testing.assert_array_equal(lines[each.method], each.judgements["insertion"].curves[0].mean)
    assert len(insertion.collections) == 1
    assert similarity.get_xticklabels()[0].get_text().startswith("node_Conv")


def test_metrics_without_curves_draw_none(found):
    explainer = Explainer(found.model, installed_plugins())
    plain = evaluate(explainer, tiny_windows(found.model, 2), Plan(("saliency",), ("sparseness",), draws=2))
    assert curves_figure(plain, "x") is None
