"""Sparseness and complexity, against their formulas written out, and what they are in degenerate cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tonescope_plugins.metrics.concentration import Complexity, Sparseness


def nothing(points):
    return np.zeros(len(points))


def gini_by_hand(values):
    """Half the mean absolute difference of all pairs, over the mean."""
    pairs = [abs(a - b) for a in values for b in values]
    return sum(pairs) / (2 * len(values) ** 2 * (sum(values) / len(values)))


def test_both_are_their_formulas_and_ignore_sign_and_scale(judged, measure):
    attribution = np.random.default_rng(3).standard_normal((3, 6))
    for scale in (1.0, -1e-30, 1e200):
        subject = judged(nothing, scale * attribution)
        sizes = np.abs(attribution)
        np.testing.assert_allclose(measure(Sparseness(), subject).values, [gini_by_hand(row) for row in sizes])
        wanted = [-sum(v / row.sum() * math.log(v / row.sum()) for v in row) for row in sizes]
        np.testing.assert_allclose(measure(Complexity(), subject).values, wanted)


@pytest.mark.parametrize(
    ("attribution", "sparseness", "complexity"),
    [(np.zeros(6), 0, math.log(6)), (np.full(6, -3.0), 0, math.log(6)), (np.eye(6)[2], 5 / 6, 0)],
    ids=["zero", "even", "one tone"],
)
def test_degenerate_attributions_have_the_values_that_are_stated(judged, measure, attribution, sparseness, complexity):
    subject = judged(nothing, np.broadcast_to(attribution, (3, 6)))
    np.testing.assert_allclose(measure(Sparseness(), subject).values, sparseness, atol=1e-15)
    np.testing.assert_allclose(measure(Complexity(), subject).values, complexity, atol=1e-15)
