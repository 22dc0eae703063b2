"""Rankings: their order, and whether probabilities of being in the top K come true."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.reports.tones.ranking import Over, order_of, rank_tones
from tonescope_server.reports.tones.resampling import Sources


def one_recording(n):
    return Sources(np.zeros(n, np.int64), np.zeros(n, np.int64), (1,))


def test_tones_are_ordered_by_their_mean_and_those_that_may_not_be_chosen_are_left_out():
    importance = np.array([[1.0, 9.0, 3.0, 2.0], [1.0, 9.0, 5.0, 2.0]])
    order = order_of(importance, np.array([True, False, True, True]))
    assert order.tolist() == [2, 3, 0]


def test_of_equal_tones_the_first_row_comes_first():
    assert order_of(np.ones((3, 5)), np.ones(5, bool)).tolist() == [0, 1, 2, 3, 4]


def test_a_tone_that_may_not_be_chosen_is_in_no_top_and_has_no_rank():
    rng = np.random.default_rng(0)
    importance = np.abs(rng.standard_normal((50, 6))) + 9.0 * (np.arange(6) == 0)
    found = rank_tones(importance, one_recording(50), np.arange(6) > 0, (2, 5), rng, 200)
    assert found.in_top[2][0] == found.rank_high[0] == 0
    assert found.in_top[2].sum() == pytest.approx(2)
    np.testing.assert_array_equal(found.in_top[5][1:], 1.0)
    assert found.rank_low[1:].min() == 1


def test_probabilities_of_being_in_the_top_come_true():
    """Twenty tones with close means, many times over: those said to be in with p in ten are in about p in ten times."""
    said, true = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        means = 5 + 0.3 * rng.standard_normal(20)
        importance = means + rng.standard_normal((60, 20))
        found = rank_tones(importance, one_recording(60), np.ones(20, bool), (8,), rng, 300)
        said.append(found.in_top[8])
        true.append(np.isin(np.arange(20), np.argsort(-means)[:8]))
    p, was = np.concatenate(said), np.concatenate(true)
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (p >= low) & (p < low + 0.2 + (low == 0.8))
        assert inside.sum() > 150
        # About 200 tones in a bin: their share is known to 0.035.
        assert was[inside].mean() == pytest.approx(p[inside].mean(), abs=0.1)


def test_from_three_recordings_on_probabilities_are_over_recordings():
    rng = np.random.default_rng(0)
    levels = rng.standard_normal((6, 4))[:, None]
    importance = np.abs(5 + levels + 0.01 * rng.standard_normal((6, 20, 4))).reshape(-1, 4)

    def ranked(n):
        numbers = np.arange(n).repeat(20)
        sources = Sources(numbers, np.zeros(len(numbers), np.int64), (1,) * n)
        return rank_tones(importance[: n * 20], sources, np.ones(4, bool), (2,), rng, 500)

    two, six = ranked(2), ranked(6)
    assert (two.over, six.over) == (Over.WINDOWS, Over.RECORDINGS)
    assert two.standard_error_recordings is None
    assert (six.standard_error_recordings > 50 * six.standard_error).all()
    assert set(np.unique(two.in_top[2])) == {0.0, 1.0}
    assert ((six.in_top[2] > 0) & (six.in_top[2] < 1)).any()


def test_windows_that_repeat_each_other_are_worth_fewer():
    rng = np.random.default_rng(0)
    fresh = np.abs(rng.standard_normal((200, 8)))
    ranked = [
        rank_tones(each, one_recording(200), np.ones(8, bool), (2,), rng, 500)
        for each in (fresh, fresh[:50].repeat(4, axis=0))
    ]
    assert ranked[0].effective_windows > 150
    assert 25 < ranked[1].effective_windows < 70


def test_the_same_seed_gives_the_same_ranking():
    importance = np.abs(np.random.default_rng(0).standard_normal((40, 5)))
    first, second = (
        rank_tones(importance, one_recording(40), np.ones(5, bool), (2,), np.random.default_rng(7), 100)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.in_top[2], second.in_top[2])
    np.testing.assert_array_equal(first.standard_error, second.standard_error)
