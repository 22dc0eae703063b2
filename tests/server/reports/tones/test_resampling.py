"""How sure a mean is, held against how much it really varies from one simulated recording to the next."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from tonescope_server.reports.tones.resampling import (
    Sources,
    block_length,
    error_of_mean,
    overlap_of,
    resample_recordings,
    resample_windows,
)

COLUMNS, OVERLAP = 10, 2


def recorded(rng, n, rho, nodes=1):
    """Windows of two steps of lognormal autoregressions: half of what moves is seen by all nodes; nodes take turns."""
    steps = n // nodes + OVERLAP - 1

    def moving():
        noise = rng.standard_normal((steps + 100, COLUMNS))
        return np.sqrt(1 - rho**2) * lfilter([1], [1, -rho], noise, axis=0)[100:]

    shared = moving()
    values = np.empty((n, COLUMNS))
    for node in range(nodes):
        frames = np.exp(0.5 * (shared + moving())) + 0.3 * node
        values[node::nodes] = (frames[1:] + frames[:-1]) / 2
    truth = np.exp(0.25) + 0.15 * (nodes - 1)  # the mean of a lognormal of variance ½
    return values, Sources(np.zeros(n, np.int64), np.arange(n) % nodes, (OVERLAP * nodes,)), truth


def coverage(n, rho, nodes, seeds=80):
    """Return how often ±1.96 standard errors hold the truth, and how often the plain standard error does."""
    ours, plain = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        values, sources, truth = recorded(rng, n, rho, nodes)
        off = np.abs(values.mean(axis=0) - truth)
        ours.append(off < 1.96 * resample_windows(values, sources, 300, rng).standard_error)
        plain.append(off < 1.96 * values.std(axis=0, ddof=1) / np.sqrt(n))
    return np.mean(ours), np.mean(plain)


# 800 intervals each, ten at a time of one recording: their share is known to about 0.015. Seventy windows of two nodes
# that hardly lose their memory are worth some eight: there an interval of normal width cannot hold 95 %.
@pytest.mark.parametrize(
    ("n", "rho", "nodes", "least"),
    [(70, 0.5, 2, 0.87), (70, 0.8, 2, 0.84), (200, 0.0, 2, 0.91), (200, 0.8, 2, 0.89), (400, 0.5, 1, 0.92)],
)
def test_an_interval_holds_the_truth_nearly_as_often_as_it_says_where_windows_overlap_and_drift(n, rho, nodes, least):
    ours, plain = coverage(n, rho, nodes)
    assert least < ours < 0.985
    assert plain < ours - 0.1  # the error of independent windows would have been believed too often


def test_independent_windows_have_the_usual_standard_error():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((400, 30))
    found = resample_windows(values, Sources(np.zeros(400, np.int64), np.zeros(400, np.int64), (1,)), 1000, rng)
    usual = values.std(axis=0, ddof=1) / 20
    assert np.median(found.standard_error / usual) == pytest.approx(1.0, abs=0.1)
    np.testing.assert_allclose(found.means.mean(axis=0), values.mean(axis=0), atol=0.01)


def test_blocks_grow_with_the_memory_of_the_series():
    lengths = [block_length(recorded(np.random.default_rng(3), 600, rho)[0]) for rho in (0.0, 0.5, 0.8)]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2]


def test_a_block_is_never_shorter_than_the_windows_that_share_frames():
    values = np.random.default_rng(0).standard_normal((60, 4))
    sources = Sources(np.zeros(60, np.int64), np.zeros(60, np.int64), (7,))
    assert resample_windows(values, sources, 10, np.random.default_rng(0)).blocks[0] >= 7


def test_what_differs_between_nodes_as_such_is_no_chance():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 5))
    sources = Sources(np.zeros(200, np.int64), np.arange(200) % 2, (2,))
    apart = values + 100.0 * (np.arange(200) % 2)[:, None]
    first, second = (
        resample_windows(v, sources, 500, np.random.default_rng(1)).standard_error for v in (values, apart)
    )
    np.testing.assert_allclose(first, second, rtol=1e-6)


@pytest.mark.parametrize(("count", "least"), [(5, 0.82), (20, 0.9)])
def test_drawing_recordings_tells_what_another_recording_would_change(count, least):
    """Each recording has its own level: windows of five of them know nothing of a sixth."""
    over_recordings, over_windows = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        levels = rng.standard_normal((count, COLUMNS))
        values = (levels[:, None] + 0.3 * rng.standard_normal((count, 30, COLUMNS))).reshape(-1, COLUMNS)
        sources = Sources(np.arange(count).repeat(30), np.zeros(count * 30, np.int64), (1,) * count)
        off = np.abs(values.mean(axis=0))
        over_recordings.append(off < 1.96 * resample_recordings(values, sources, 300, rng).standard_error)
        over_windows.append(off < 1.96 * resample_windows(values, sources, 300, rng).standard_error)
    assert least < np.mean(over_recordings) < 0.985
    assert np.mean(over_windows) < 0.4


def test_windows_that_are_all_alike_leave_nothing_in_doubt():
    sources = Sources(np.zeros(20, np.int64), np.zeros(20, np.int64), (2,))
    found = resample_windows(np.full((20, 3), 2.5), sources, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(found.means, 2.5)


def test_the_error_of_a_mean_over_overlapping_windows_is_that_of_the_mean():
    """Against the spread of the means of 200 series, where windows counted as independent would halve it and more."""
    series = np.stack([overlapping(seed) for seed in range(200)])
    truth = series.mean(axis=1).std(axis=0)
    told = np.mean([error_of_mean(each, np.zeros(len(each), np.int64), 8) for each in series[:40]], axis=0)
    naive = series.std(axis=1).mean(axis=0) / np.sqrt(series.shape[1])
    assert (truth > 2 * naive).all()
    np.testing.assert_allclose(told, truth, rtol=0.2)


def overlapping(seed, n=256, span=8):
    """Means over ``span`` independent values each, of which the next window has all but one."""
    values = np.random.default_rng(seed).normal(size=(n + span - 1, 2))
    return np.stack([values[i : i + span].mean(axis=0) for i in range(n)])


def test_the_error_of_one_window_is_not_known():
    assert error_of_mean(np.ones((1, 3)), np.zeros(1, np.int64)) is None


def test_consecutive_windows_overlap_by_their_hop_and_the_nodes_between_them():
    assert overlap_of(20, 10, np.array([1, 2, 1, 2])) == 4
    assert overlap_of(20, 0, np.array([1, 1])) == 1
