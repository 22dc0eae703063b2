"""Random weights: similarity by second moments, entropy, several draws of weights, and noisy copies."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_plugins.metrics.parameter_randomisation import (
    RISE,
    SIMILARITY,
    EntropyRise,
    ParameterRandomisation,
    similarity,
)
from tonescope_server.plugin import LayerOrder


def nothing(points):
    return np.zeros(len(points))


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ([3, -4], [6, -8], 1),
        ([3, -4], [-3e-9, 4e-9], -1),
        ([1, 0], [0, 5], 0),
        ([0, 0], [0, 0], 1),
        ([0, 0], [0, 5], 0),
        ([1, 0], [1, 1], 0.5**0.5),
    ],
)
def test_similarity_is_the_mean_product_after_each_is_divided_by_its_second_moment(a, b, wanted):
    assert similarity(np.array([a], float), np.array([b], float)) == pytest.approx([wanted])


def test_the_value_is_after_all_layers_and_the_curve_after_each(judged, measure):
    def randomised(order, most, draw):
        assert (order, most) == (LayerOrder.TOP_DOWN, 5)
        yield "first", lambda points: np.tile([1.0, 1, 0, 0, 0, 0], (len(points), 1))
        yield "second", lambda points: np.tile([0.0, 0, 0, 0, 0, 1 + draw], (len(points), 1))

    subject = judged(nothing, explain=lambda p: np.tile([1.0, 0, 0, 0, 0, 0], (len(p), 1)), randomised=randomised)
    found = measure(ParameterRandomisation(), subject, order="top_down", max_steps=5)
    assert found.steps[SIMILARITY] == ("first", "second")
    np.testing.assert_allclose(found.curves[SIMILARITY], [[0.5**0.5, 0]] * 3)
    np.testing.assert_allclose(found.values, 0)
    rise = measure(EntropyRise(), subject, order="top_down", max_steps=5)
    np.testing.assert_allclose(rise.curves[RISE], [[np.log(2), 0]] * 3, atol=1e-12)  # in nats: the own has none


def test_entropy_rises_by_a_part_of_what_it_was(judged, measure):
    def randomised(order, most, draw):
        yield "all", lambda points: np.ones((len(points), 6))

    subject = judged(nothing, explain=lambda p: np.tile([1.0, 1, 0, 0, 0, 0], (len(p), 1)), randomised=randomised)
    np.testing.assert_allclose(measure(EntropyRise(), subject).values, np.log(6) / np.log(2) - 1)


def test_results_are_averaged_over_the_draws_of_weights(judged, measure):
    def randomised(order, most, draw):
        yield "all", lambda points: np.tile(np.eye(6)[draw], (len(points), 1))

    subject = judged(nothing, explain=lambda p: np.tile(np.eye(6)[0], (len(p), 1)), randomised=randomised)
    assert measure(ParameterRandomisation(), subject, models=1).values[0] == pytest.approx(1)
    assert measure(ParameterRandomisation(), subject, models=4).values[0] == pytest.approx(1 / 4)


def test_noisy_copies_are_averaged_of_the_model_and_of_the_random_ones_alike(judged, measure):
    seen = []

    def randomised(order, most, draw):
        yield "all", lambda points: seen.append(points) or points.sum(axis=2)

    own = []
    subject = judged(nothing, explain=lambda p: own.append(p) or p.sum(axis=2), randomised=randomised)
    found = measure(ParameterRandomisation(), subject, models=1, copies=4, noise_level=0.5)
    assert len(seen) == 4
    assert len(own) == 1 + 4
    np.testing.assert_array_equal(own[1:], seen)
    assert np.ptp([points[0, 0, 0] for points in seen]) > 0
    np.testing.assert_allclose(found.values, 1)
