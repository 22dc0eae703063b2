"""Infidelity: none for what is true, and the mean squared error by hand for anything else."""

from __future__ import annotations

import numpy as np

from tonescope_plugins.metrics._subsets import draw_subsets
from tonescope_plugins.metrics.infidelity import Infidelity


def squared(points):
    return (points.sum(axis=2) ** 2).sum(axis=1) + points[:, 0, 0] * points[:, 5, 1]


def test_what_a_linear_model_says_itself_has_no_infidelity(judged, linear, measure):
    subject = judged(linear, explain=linear.contributions)
    np.testing.assert_allclose(measure(Infidelity(), subject).values, 0, atol=1e-24)


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
