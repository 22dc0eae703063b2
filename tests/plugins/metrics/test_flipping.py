"""Deletion, insertion and subcarrier flipping, against the removal written out tone by tone."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_plugins.metrics.flipping import INSERTED, LEAST, MOST, Deletion, Insertion, SubcarrierFlipping


def bent(points):
    """Something that is not linear, so that the order of removal matters."""
    tones = points.sum(axis=2)
    return np.tanh(tones[:, 0] * tones[:, 1]) + np.abs(tones[:, 2:]).sum(axis=1) + tones[:, 3] * tones[:, 4]


def curve_by_hand(function, x, order, baseline, insert=False):
    """Remove (or insert) tone after tone, in plain loops: ``(n, tones + 1)``."""
    curves = []
    for window, ranked in zip(x, order, strict=True):
        now = np.full_like(window, baseline) if insert else window.copy()
        values = [function(now[None])[0]]
        for tone in ranked:
            now[tone] = window[tone] if insert else baseline
            values.append(function(now[None])[0])
        curves.append(values)
    return np.array(curves)


def area_by_hand(curves):
    steps = curves.shape[1] - 1
    return [sum((c[i] + c[i + 1]) / 2 / steps for i in range(steps)) for c in curves]


@pytest.fixture
def subject(judged):
    attribution = np.random.default_rng(1).standard_normal((3, 6))
    return judged(bent, attribution, baseline=0.3)


def test_deletion_is_the_area_as_the_most_relevant_tones_go_first(subject, measure):
    found = measure(Deletion(), subject)
    by_hand = curve_by_hand(bent, subject.x, np.argsort(-subject.attribution, axis=1), 0.3)
    np.testing.assert_allclose(found.curves[MOST], by_hand, rtol=1e-12)
    np.testing.assert_allclose(found.values, area_by_hand(by_hand), rtol=1e-12)
    np.testing.assert_allclose(found.at[MOST], np.arange(7) / 6)


def test_insertion_is_the_area_as_the_most_relevant_tones_come_back_first(subject, measure):
    found = measure(Insertion(), subject)
    by_hand = curve_by_hand(bent, subject.x, np.argsort(-subject.attribution, axis=1), 0.3, insert=True)
    np.testing.assert_allclose(found.curves[INSERTED], by_hand, rtol=1e-12)
    np.testing.assert_allclose(found.values, area_by_hand(by_hand), rtol=1e-12)


def test_flipping_is_what_lies_between_least_and_most_relevant_first(subject, measure):
    found = measure(SubcarrierFlipping(), subject)
    order = np.argsort(-subject.attribution, axis=1)
    most, least = (curve_by_hand(bent, subject.x, each, 0.3) for each in (order, order[:, ::-1]))
    np.testing.assert_allclose(found.curves[LEAST], least, rtol=1e-12)
    np.testing.assert_allclose(found.values, np.subtract(area_by_hand(least), area_by_hand(most)), rtol=1e-10)


def test_the_area_of_insertion_is_that_of_the_least_relevant_removed_first(subject, measure):
    least = measure(SubcarrierFlipping(), subject).curves[LEAST]
    np.testing.assert_allclose(measure(Insertion(), subject).values, area_by_hand(least), rtol=1e-12)


def test_true_contributions_of_a_linear_model_do_best_of_all_orders(judged, linear, measure):
    best = measure(SubcarrierFlipping(), judged(linear, explain=linear.contributions)).values
    for seed in range(20):
        attribution = np.random.default_rng(seed).standard_normal((3, 6))
        assert (measure(SubcarrierFlipping(), judged(linear, attribution)).values <= best + 1e-12).all()


def test_by_absolute_value_the_sign_of_an_attribution_makes_no_difference(subject, judged, measure):
    turned = judged(bent, -subject.attribution, baseline=0.3)
    found = [measure(Deletion(), each, rank="absolute").values for each in (subject, turned)]
    np.testing.assert_array_equal(*found)
    assert (measure(Deletion(), subject).values != measure(Deletion(), turned).values).any()


def test_with_fewer_steps_several_tones_go_at_a_time(subject, measure):
    whole, coarse = measure(Deletion(), subject), measure(Deletion(), subject, max_steps=3)
    np.testing.assert_allclose(coarse.at[MOST], [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(coarse.curves[MOST], whole.curves[MOST][:, ::2])


def test_an_even_attribution_is_removed_in_a_random_order_and_not_in_that_of_the_rows(judged, measure):
    order = []

    def first_gone(points):
        order.append((points == 0).all(axis=2))
        return np.zeros(len(points))

    measure(Deletion(), judged(first_gone, np.zeros((3, 6))))
    (gone,) = order
    last = gone.reshape(3, 7, 6).sum(axis=1).argsort(axis=1)  # how often each tone was there: which went last
    assert (last == last[0]).all()  # the same for every window
    assert (last[0] != np.arange(6)).any()
    assert (last[0] != np.arange(6)[::-1]).any()


def test_a_tone_that_is_no_feature_is_never_removed(judged, measure):
    seen = []

    def watch(points):
        seen.append(points)
        return points.sum(axis=(1, 2))

    subject = judged(watch, np.arange(15.0).reshape(3, 5), null_tone=2)
    measure(SubcarrierFlipping(), subject)
    for points in seen:
        np.testing.assert_array_equal(points[:, 2], np.repeat(subject.x[:, 2], 6, axis=0))
