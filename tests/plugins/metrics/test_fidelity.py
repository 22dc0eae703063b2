"""Infidelity, faithfulness correlation and completeness: exact for a linear model, and by hand for others."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_plugins.metrics._subsets import draw_subsets
from tonescope_plugins.metrics.completeness import Completeness
from tonescope_plugins.metrics.faithfulness_correlation import FaithfulnessCorrelation
from tonescope_plugins.metrics.infidelity import Infidelity


def squared(points):
    return (points.sum(axis=2) ** 2).sum(axis=1) + points[:, 0, 0] * points[:, 5, 1]


def test_what_a_linear_model_says_itself_has_no_infidelity_and_a_correlation_of_one(judged, linear, measure):
    subject = judged(linear, explain=linear.contributions)
    np.testing.assert_allclose(measure(Infidelity(), subject).values, 0, atol=1e-24)
    np.testing.assert_allclose(measure(FaithfulnessCorrelation(), subject).values, 1, rtol=1e-12)
    np.testing.assert_allclose(measure(Completeness(), subject).values, 0, atol=1e-12)


def test_the_gradient_of_a_linear_model_has_no_infidelity_under_noise(judged, linear, measure):
    subject = judged(linear, explain=linear.gradient)
    np.testing.assert_allclose(measure(Infidelity(), subject, perturbation="noise").values, 0, atol=1e-20)
    assert (measure(Infidelity(), judged(linear, np.zeros((3, 6))), perturbation="noise").values > 1e-4).all()


def test_infidelity_is_the_mean_squared_error_over_the_sets_that_are_drawn(judged, measure):
    attribution = np.random.default_rng(1).standard_normal((3, 6))
    subject = judged(squared, attribution, baseline=0.5)
    subsets = draw_subsets(subject, 20, 0.5)
    assert (subsets.sum(axis=1) == 3).all()
    errors = np.zeros((3, 20))
    for w, window in enumerate(subject.x):
        for s, gone in enumerate(subsets):
            without = window.copy()
            without[gone] = 0.5
            loss = squared(window[None])[0] - squared(without[None])[0]
            errors[w, s] = (attribution[w, gone].sum() - loss) ** 2
    found = measure(Infidelity(), subject, n=20, share=0.5)
    np.testing.assert_allclose(found.values, errors.mean(axis=1), rtol=1e-12)


def test_scaled_infidelity_forgives_a_factor_and_nothing_else(judged, linear, measure):
    contributions = linear.contributions(judged(linear, np.zeros((3, 6))).x)
    wrong = judged(linear, -40 * contributions)
    assert (measure(Infidelity(), wrong).values > 1).all()
    np.testing.assert_allclose(measure(Infidelity(), wrong, scaled=True).values, 0, atol=1e-20)
    zero, mixed = judged(linear, np.zeros((3, 6))), judged(linear, contributions[:, ::-1])
    worst = measure(Infidelity(), zero, scaled=True).values
    np.testing.assert_array_equal(worst, measure(Infidelity(), zero).values)
    assert (measure(Infidelity(), mixed, scaled=True).values <= worst).all()


def test_correlation_turns_with_the_sign_and_ignores_the_scale(judged, measure):
    attribution = np.random.default_rng(2).standard_normal((3, 6))
    same, turned = judged(squared, attribution * 1e-30), judged(squared, -attribution)
    found = measure(FaithfulnessCorrelation(), same).values
    np.testing.assert_allclose(found, -measure(FaithfulnessCorrelation(), turned).values, rtol=1e-9)
    subsets = draw_subsets(same, 100, 0.25)
    loss = same.score_without(np.broadcast_to(subsets, (3, *subsets.shape)))
    wanted = [np.corrcoef(subsets @ attribution[i], -loss[i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("attribution", [np.zeros((3, 6)), np.full((3, 6), 2.5)])
def test_an_attribution_that_is_the_same_for_all_sets_correlates_with_nothing(judged, measure, attribution):
    assert (measure(FaithfulnessCorrelation(), judged(squared, attribution)).values == 0).all()


def test_completeness_counts_what_lies_on_null_tones_and_goes_by_the_baseline(judged, linear, measure):
    from dataclasses import replace

    subject = judged(linear, linear.contributions(judged(linear, np.zeros((3, 6))).x), baseline=1.0)
    missed = abs(linear(np.ones((1, 6, 2)))[0])
    np.testing.assert_allclose(measure(Completeness(), subject).values, missed, rtol=1e-12)
    moved = replace(subject, elsewhere=np.full(3, 10.0))
    signed = linear(np.ones((1, 6, 2)))[0]
    np.testing.assert_allclose(measure(Completeness(), moved).values, abs(10 + signed), rtol=1e-12)
