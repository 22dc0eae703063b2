"""Mass, rank accuracy, AUC and the pointing game, against plain counting; ties have the value of chance."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tonescope_plugins.metrics.planted_truth import PointingGame, RelevanceAuc, RelevanceMass, RelevanceRankAccuracy

ALL = (RelevanceMass(), RelevanceRankAccuracy(), RelevanceAuc(), PointingGame())


def nothing(points):
    return np.zeros(len(points))


def test_all_four_by_counting(judged, measure):
    subject = judged(nothing, [[-5, 1, 3, 0, -4, 2]], x=np.zeros((1, 6, 2)), planted=[0, 2])
    mass, rank, auc, pointing = (measure(metric, subject).values[0] for metric in ALL)
    assert mass == pytest.approx(8 / 15)
    assert rank == 0.5  # of the two largest, 5 and 4, one is planted
    assert auc == pytest.approx(7 / 8)  # of the pairs (5, 3) × (1, 0, 4, 2) all but (3, 4)
    assert pointing == 1


def test_ties_have_the_mean_over_all_ways_to_break_them(judged, measure):
    values, truth = np.array([2.0, 2.0, 2.0, 1.0, 1.0, 0.0]), [0, 3]
    subject = judged(nothing, [values], x=np.zeros((1, 6, 2)), planted=truth)
    found = [measure(metric, subject).values[0] for metric in ALL]
    broken = []
    for order in permutations(range(6)):
        nudged = judged(nothing, [values + 1e-6 * np.array(order)], x=np.zeros((1, 6, 2)), planted=truth)
        broken.append([measure(metric, nudged).values[0] for metric in ALL])
    np.testing.assert_allclose(found, np.mean(broken, axis=0), atol=1e-5)


def test_an_attribution_of_zero_has_the_value_of_chance(judged, measure):
    subject = judged(nothing, np.zeros((3, 6)), planted=[1, 4])
    wanted = [1 / 3, 1 / 3, 0.5, 1 / 3]
    for metric, value in zip(ALL, wanted, strict=True):
        np.testing.assert_allclose(measure(metric, subject).values, value)


def test_all_tones_planted_tells_nothing(judged, measure):
    subject = judged(nothing, np.arange(18.0).reshape(3, 6), planted=range(6))
    assert [measure(metric, subject).values[0] for metric in ALL] == [1, 1, 0.5, 1]
