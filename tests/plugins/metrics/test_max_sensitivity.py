"""Max-sensitivity: the largest change that was seen, relative to the attribution, within the radius."""

from __future__ import annotations

import numpy as np

from tonescope_plugins.metrics.max_sensitivity import MaxSensitivity


def nothing(points):
    return np.zeros(len(points))


def test_an_attribution_that_never_changes_has_none(judged, measure):
    subject = judged(nothing, explain=lambda points: np.ones((len(points), 6)))
    assert (measure(MaxSensitivity(), subject).values == 0).all()


def test_the_largest_of_the_changes_counts_and_grows_with_the_radius(judged, measure):
    seen = []

    def explain(points):
        seen.append(points)
        return points.sum(axis=2)

    subject = judged(nothing, explain=explain)
    found = measure(MaxSensitivity(), subject, n=5, radius=0.1)
    size = np.linalg.norm(subject.attribution, axis=1)
    changes = [np.linalg.norm(points.sum(axis=2) - subject.attribution, axis=1) / size for points in seen[1:]]
    assert len(changes) == 5
    np.testing.assert_allclose(found.values, np.max(changes, axis=0))
    span = subject.x.max(axis=(1, 2)) - subject.x.min(axis=(1, 2))
    for points in seen[1:]:
        assert (np.abs(points - subject.x).max(axis=(1, 2)) <= 0.1 * span).all()
    wider = measure(MaxSensitivity(), subject, n=5, radius=0.2).values
    np.testing.assert_allclose(wider, 2 * found.values)


def test_a_zero_attribution_that_becomes_something_has_one_and_one_that_stays_has_none(judged, measure):
    x = np.random.default_rng(0).standard_normal((2, 6, 2))
    wakes = judged(nothing, explain=lambda p: (p != x).any(axis=2) * np.array([[1.0], [0.0]]), x=x)
    np.testing.assert_allclose(measure(MaxSensitivity(), wakes).values, [1, 0])


def test_null_tones_are_left_as_they_are(judged, measure):
    seen = []

    def explain(points):
        seen.append(points)
        return np.ones((len(points), 5))

    subject = judged(nothing, explain=explain, null_tone=1)
    measure(MaxSensitivity(), subject)
    assert all((points[:, 1] == subject.x[:, 1]).all() for points in seen)
    assert all((points[:, 2] != subject.x[:, 2]).all() for points in seen[1:])
