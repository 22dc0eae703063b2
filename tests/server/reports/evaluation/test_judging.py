"""A metric's value beside that of random attributions, and metrics that misbehave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonescope_plugins.metrics.concentration import Complexity, Sparseness
from tonescope_plugins.metrics.faithfulness_correlation import FaithfulnessCorrelation
from tonescope_plugins.metrics.flipping import MOST, Deletion
from tonescope_server.errors import ParameterError, PluginError
from tonescope_server.plugin import Chance, Measured, Metric
from tonescope_server.reports.evaluation.chance import by_chance
from tonescope_server.reports.evaluation.judging import checked_parameters, judge
from tonescope_server.reports.evaluation.subject import Subject


@pytest.fixture
def judged(tiny, windows):
    explainer = tiny()
    return Subject(explainer, windows(explainer)).judged("input_x_gradient", {})[0]


class First(Metric):
    """The first feature's attribution: its p-value can be counted by hand."""

    name = "first"
    summary = "What the first feature has."
    higher_is_better = True

    def measure(self, judged, parameters):
        return Measured(judged.attribution[:, 0])


def test_the_p_value_counts_the_draws_that_do_at_least_as_well(judged):
    found = judge(First(), judged, First.Parameters(), 200)
    as_good = int((found.chance >= found.mean).sum())
    as_bad = int((found.chance <= found.mean).sum())
    assert 0 < as_good < 200
    assert (found.p_value, found.p_worse) == ((1 + as_good) / 201, (1 + as_bad) / 201)
    # The values of all features, each as likely to be first: their mean is what is expected of chance.
    error = found.chance.std() / 200**0.5
    assert found.chance.mean() == pytest.approx(judged.attribution.mean(), abs=4 * error)


def test_the_best_value_that_there_can_be_is_told_from_chance_and_the_worst_is_told_as_worse(judged):
    best = np.tile(np.sort(judged.attribution.mean(axis=0))[::-1], (5, 1))
    found = judge(First(), replace(judged, attribution=best), First.Parameters(), 20)
    assert (found.p_value, found.is_told_from_chance, found.is_worse_than_chance) == (1 / 21, True, False)
    worst = judge(First(), replace(judged, attribution=best[:, ::-1]), First.Parameters(), 20)
    assert (worst.p_worse, worst.is_told_from_chance, worst.is_worse_than_chance) == (1 / 21, False, True)
    few = judge(First(), replace(judged, attribution=best), First.Parameters(), 18)
    assert not few.is_told_from_chance


def test_of_random_attributions_one_in_twenty_is_told_from_chance(judged):
    told = [
        judge(First(), by_chance(judged, Chance.PERMUTED, 1000 + trial), First.Parameters(), 19).is_told_from_chance
        for trial in range(400)
    ]
    # 0.05 ± 0.011 for 400 trials; three times that.
    assert np.mean(told) == pytest.approx(0.05, abs=0.033)


def test_an_attribution_that_is_even_is_neither_better_nor_worse_than_chance(judged):
    even = replace(judged, attribution=np.full(judged.attribution.shape, 0.1))
    for metric in (Sparseness(), Complexity(), FaithfulnessCorrelation()):
        found = judge(metric, even, metric.Parameters(), 20)
        assert (found.p_value, found.p_worse) == (1, 1), metric.name


def test_curves_are_means_over_windows_with_one_of_chance_for_each_draw(judged):
    found = judge(Deletion(), judged, Deletion.Parameters(max_steps=4), 3)
    (curve,) = found.curves
    assert (curve.name, curve.steps) == (MOST, ())
    assert curve.mean.shape == (5,)
    assert curve.chance.shape == (3, 5)
    intact = judged.score(judged.x, judged.everyone).mean()
    np.testing.assert_allclose([curve.mean[0], *curve.chance[:, 0]], intact)
    np.testing.assert_allclose(curve.chance[:, -1], curve.mean[-1])


def test_a_metric_that_permuting_does_not_change_is_compared_with_normal_numbers(judged):
    found = judge(Sparseness(), judged, Sparseness.Parameters(), 50)
    assert found.chance.std() > 0
    # The Gini index of |normal numbers| of mean zero is √2 − 1 = 0.414; these have nearly that mean.
    assert found.chance.mean() == pytest.approx(2**0.5 - 1, abs=0.03)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full(5, np.nan), "expected a finite value for each of 5 windows, got \\[nan"),
        (np.zeros(4), "expected a finite value for each of 5 windows, got \\[0. 0. 0. 0.\\]"),
    ],
)
def test_values_that_are_no_number_for_each_window_are_the_metrics_fault(judged, values, said):
    class Wrong(First):
        def measure(self, judged, parameters):
            return Measured(values)

    with pytest.raises(PluginError, match=f"metric 'first': {said}"):
        judge(Wrong(), judged, Wrong.Parameters(), 1)


def test_a_metric_that_raises_is_named_in_one_line(judged):
    class Raises(First):
        def measure(self, judged, parameters):
            raise KeyError("no\nsuch")

    with pytest.raises(PluginError, match=r"^metric 'first' failed: KeyError: 'no\\nsuch'$"):
        judge(Raises(), judged, Raises.Parameters(), 1)


def test_parameters_are_checked_and_told_by_name():
    assert checked_parameters(Deletion(), {"max_steps": 3}).max_steps == 3
    with pytest.raises(ParameterError, match="metric 'deletion', parameter 'steps': Extra inputs"):
        checked_parameters(Deletion(), {"steps": 3})
    with pytest.raises(ParameterError, match=r"metric 'deletion', parameter 'max_steps': .* or equal to 1"):
        checked_parameters(Deletion(), {"max_steps": 0})
