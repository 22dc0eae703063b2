"""Random attributions of the same distribution: the same values elsewhere, or normal ones of the same moments."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.plugin import Chance, LayerOrder
from tonescope_server.reports.evaluation.chance import by_chance
from tonescope_server.reports.evaluation.subject import Subject


@pytest.fixture
def judged(tiny, windows):
    explainer = tiny()
    return Subject(explainer, windows(explainer)).judged("input_x_gradient", {})[0]


def test_permuted_values_are_those_of_the_method_in_one_order_for_all_windows(judged):
    found = by_chance(judged, Chance.PERMUTED, 0).attribution
    assert (found != judged.attribution).any()
    places = [np.flatnonzero((judged.attribution == value).all(axis=0)) for value in found.T[:, :, None]]
    assert sorted(int(place[0]) for place in places) == list(range(judged.n_features))


def test_normal_values_have_the_mean_and_spread_of_each_window(judged):
    drawn = np.stack([by_chance(judged, Chance.NORMAL, draw).attribution for draw in range(200)])
    # 200 draws of some fifty features: the mean is known to a hundredth of the spread, and the spread to a hundredth.
    spread = judged.attribution.std(axis=1)
    np.testing.assert_allclose(drawn.mean(axis=(0, 2)), judged.attribution.mean(axis=1), atol=0.05 * spread.max())
    np.testing.assert_allclose(drawn.std(axis=(0, 2)), spread, rtol=0.05)


@pytest.mark.parametrize("chance", Chance)
def test_a_draw_is_the_same_again_and_unlike_any_other(judged, chance):
    first, again, other = (by_chance(judged, chance, draw).attribution for draw in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("chance", Chance)
def test_windows_that_are_judged_with_others_are_drawn_alike(tiny, windows, chance):
    explainer = tiny()
    x = windows(explainer)
    alone, together = (
        by_chance(Subject(explainer, each).judged("input_x_gradient", {})[0], chance, 0).attribution
        for each in (x[1:2], x)
    )
    np.testing.assert_allclose(alone, together[1:2], rtol=1e-5, atol=1e-9)


def test_whoever_asks_again_gets_another_draw_of_what_the_method_says(judged):
    random = by_chance(judged, Chance.PERMUTED, 0)
    once, twice = (random.attribute(judged.x, judged.everyone) for _ in range(2))
    for found in (once, twice):
        np.testing.assert_allclose(np.sort(found, axis=1), np.sort(judged.attribution, axis=1), rtol=1e-5)
    assert (once != twice).any()
    assert (once != random.attribution).any()
    ((name, attribute),) = random.randomised(LayerOrder.BOTTOM_UP, 1, 0)
    ((own_name, own),) = judged.randomised(LayerOrder.BOTTOM_UP, 1, 0)
    assert name == own_name
    said, own_said = (each(judged.x, judged.everyone) for each in (attribute, own))
    np.testing.assert_array_equal(np.sort(said, axis=1), np.sort(own_said, axis=1))
    assert (said != own_said).any()
