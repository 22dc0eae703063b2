"""Faithfulness correlation, against NumPy's own over the same sets."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_plugins.metrics._subsets import draw_subsets
from tonescope_plugins.metrics.faithfulness_correlation import FaithfulnessCorrelation


def squared(points):
    return (points.sum(axis=2) ** 2).sum(axis=1) + points[:, 0, 0] * points[:, 5, 1]


def test_what_a_linear_model_says_itself_has_a_correlation_of_one(judged, linear, measure):
    subject = judged(linear, explain=linear.contributions)
    np.testing.assert_allclose(measure(FaithfulnessCorrelation(), subject).values, 1, rtol=1e-12)


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
