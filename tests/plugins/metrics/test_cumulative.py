"""Cumulative deletion and preservation, against the sums written out."""

from __future__ import annotations

import numpy as np

from tonescope_plugins.metrics.cumulative import CumulativeDeletion, CumulativePreservation
from tonescope_plugins.metrics.flipping import LEAST, MOST


def by_hand(function, x, order, count):
    found = []
    for window, ranked in zip(x, order, strict=True):
        now, total = window.copy(), 0.0
        for tone in ranked[:count]:
            before = function(now[None])[0]
            now[tone] = 0.0
            total += abs(function(now[None])[0] - before)
        found.append(total)
    return np.array(found)


def test_every_change_counts_whatever_its_sign(judged, linear, measure):
    subject = judged(linear, explain=linear.contributions)
    order = np.argsort(-np.abs(subject.attribution), axis=1)
    for share, count in ((0.5, 3), (1.0, 6), (0.01, 1)):
        found = measure(CumulativeDeletion(), subject, share=share)
        np.testing.assert_allclose(found.values, by_hand(linear, subject.x, order, count), rtol=1e-12)
        np.testing.assert_allclose(found.curves[MOST][:, -1], found.values)
        least = measure(CumulativePreservation(), subject, share=share)
        np.testing.assert_allclose(least.values, by_hand(linear, subject.x, order[:, ::-1], count), rtol=1e-12)
        assert least.at[LEAST][0] == 0


def test_contributions_that_cancel_are_not_hidden(judged, measure):
    def function(points):
        return points[:, 0, 0] - points[:, 1, 0]

    subject = judged(function, [[1, -1, 0, 0, 0, 0]], x=np.ones((1, 6, 2)))
    assert measure(CumulativeDeletion(), subject, share=1 / 3).values == [2.0]
    assert measure(CumulativePreservation(), subject, share=1 / 3).values == [0.0]
