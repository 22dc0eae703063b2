"""Overlap of the top K and rank correlation, over time, nodes and recordings."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.reports.tones.resampling import Sources
from tonescope_server.reports.tones.stability import compare_all, jaccard, jaccard_by_chance

ALL = np.ones(10, bool)
UP, DOWN = np.arange(10.0), np.arange(10.0)[::-1]


def compared(importance, sources, names=("a",), ks=(3,)):
    return {each.over: each for each in compare_all(importance, sources, ALL[: importance.shape[1]], ks, names)}


def test_jaccard_is_the_intersection_over_the_union():
    assert jaccard(np.array([1, 2, 3]), np.array([3, 4])) == 0.25
    assert jaccard(np.array([], int), np.array([], int)) == 1.0


@pytest.mark.parametrize(("n", "k"), [(52, 8), (52, 32), (10, 10), (9, 1)])
def test_what_chance_gives_is_what_random_sets_have_in_common(n, k):
    rng = np.random.default_rng(0)
    drawn = [jaccard(rng.permutation(n)[:k], rng.permutation(n)[:k]) for _ in range(3000)]
    assert jaccard_by_chance(n, k) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(3000) + 1e-12)


def test_a_ranking_that_turns_over_is_seen_in_halves_and_quarters():
    importance = np.repeat([UP, UP, DOWN, DOWN], 5, axis=0)
    found = compared(importance, Sources(np.zeros(20, np.int64), np.zeros(20, np.int64), (1,)))
    assert set(found) == {"halves", "time"}
    (halves,) = found["halves"].pairs
    assert (halves.jaccard[3], halves.spearman, halves.kendall) == (0.0, pytest.approx(-1), pytest.approx(-1))
    assert [pair.jaccard[3] for pair in found["time"].pairs] == [1, 0, 0, 0, 0, 1]
    assert found["time"].jaccard(3) == (pytest.approx(1 / 3), 0.0)
    assert found["time"].correlation("spearman") == pytest.approx(-1 / 3)


def test_nodes_that_see_other_tones_are_told_although_time_does_not_change_anything():
    nodes = np.arange(40) % 2
    found = compared(np.where(nodes[:, None] == 0, UP, DOWN), Sources(np.zeros(40, np.int64), nodes, (2,)))
    assert found["nodes"].jaccard(3) == (0.0, 0.0)
    assert [(pair.first, pair.second) for pair in found["nodes"].pairs] == [("node 0", "node 1")]


def test_recordings_are_compared_in_pairs_and_parts_only_within_a_recording():
    importance = np.repeat([UP, UP, DOWN], 8, axis=0)
    sources = Sources(np.repeat([0, 1, 2], 8), np.zeros(24, np.int64), (1, 1, 1))
    found = compared(importance, sources, names=("a", "b", "c"))
    assert [pair.jaccard[3] for pair in found["recordings"].pairs] == [1.0, 0.0, 0.0]
    assert len(found["time"].pairs) == 3 * 6
    assert found["time"].jaccard(3) == (1.0, 1.0)


def test_tones_that_may_not_be_chosen_do_not_count():
    loud = np.concatenate([np.repeat([UP, DOWN], 4, axis=0), np.full((8, 1), 99.0)], axis=1)
    sources = Sources(np.zeros(8, np.int64), np.zeros(8, np.int64), (1,))
    with_it, without = (
        compare_all(loud, sources, np.append(ALL, may), (3,), ("a",))[0].jaccard(3)[0] for may in (True, False)
    )
    assert (with_it, without) == (1 / 5, 0.0)


def test_tones_that_are_all_alike_have_no_rank_correlation():
    found = compared(np.ones((8, 4)), Sources(np.zeros(8, np.int64), np.zeros(8, np.int64), (1,)))
    assert found["halves"].pairs[0].spearman is None
    assert found["halves"].correlation("kendall") is None
