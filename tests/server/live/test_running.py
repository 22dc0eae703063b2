from __future__ import annotations

import numpy as np

from tonescope_server.live.running import RunningMean


def test_mean_and_standard_error_are_those_of_the_whole_series() -> None:
    series = np.random.default_rng(1).normal(3, 2, (50, 7)).astype(np.float32)
    running = RunningMean(7)
    for count, values in enumerate(series, start=1):
        now = running.add(values)
        assert now.count == count
    # float32 results of double sums: one part in 10⁶.
    np.testing.assert_allclose(now.mean, series.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(now.standard_error, series.std(axis=0, ddof=1) / np.sqrt(50), rtol=1e-5)


def test_one_window_alone_has_no_standard_error() -> None:
    running = RunningMean(3)
    assert running.add(np.ones(3, np.float32)).standard_error is None
    np.testing.assert_allclose(running.add(np.full(3, 2, np.float32)).standard_error, 0.5)


def test_a_large_offset_costs_no_precision() -> None:
    offset = 1e6
    running = RunningMean(1)
    for value in (offset + 1, offset + 2, offset + 3):
        now = running.add(np.array([value], np.float32))
    np.testing.assert_allclose(now.standard_error, 1 / np.sqrt(3), rtol=1e-6)


def test_what_was_returned_does_not_change_afterwards() -> None:
    running = RunningMean(2)
    first = running.add(np.array([1, 2], np.float32))
    running.add(np.array([5, 6], np.float32))
    assert first.mean.tolist() == [1, 2]
