"""Confidence against labels, over windows that are no independent evidence."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tonescope_server.checks.predictions import CONFIDENCE_OFF, CONFIDENCE_UNRELATED, check_confidence
from tonescope_server.reports.findings import on_confidence

SEEDS = range(100)


def calibrated(seed, n, overlap, low, high):
    """Confidence that changes as slowly as windows overlap, and outcomes that are right as often as it says."""
    rng = np.random.default_rng(seed)
    stretches = n // overlap + 1
    confidence = np.interp(np.arange(n) / overlap, np.arange(stretches + 1), rng.uniform(low, high, stretches + 1))
    return confidence, np.repeat(rng.random(stretches), overlap)[:n] < confidence


@pytest.mark.parametrize(("low", "high"), [(0.5, 1.0), (0.7, 0.95)])
@pytest.mark.parametrize(("n", "overlap"), [(200, 1), (400, 2), (1200, 20)])
def test_calibrated_confidence_of_overlapping_windows_raises_hardly_ever_an_alarm(n, overlap, low, high):
    """Two tests at a level of 0.01: of 100 sets, more than 6 have a chance of 5 in 1,000."""
    found = [on_confidence(*calibrated(seed, n, overlap, low, high)) for seed in SEEDS]
    assert sum(map(bool, found)) <= 6


def test_windows_counted_as_if_they_were_independent_would():
    found = [check_confidence(*calibrated(seed, 1200, 20, 0.5, 1.0)) for seed in SEEDS]
    assert sum(map(bool, found)) >= 10


def test_confidence_that_is_nothing_of_the_sort_is_told_of_overlapping_windows_too():
    told = Counter()
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        confidence, right = (np.repeat(rng.random(200), 4) for _ in range(2))
        told.update({f.code for f in on_confidence(0.5 + confidence / 2, right < 0.5)})
    assert min(told[CONFIDENCE_OFF], told[CONFIDENCE_UNRELATED]) >= 80, told


def test_an_overlap_that_is_known_counts_at_least():
    confidence, right = calibrated(0, 640, 1, 0.5, 1.0)
    assert on_confidence(confidence, ~right)
    assert on_confidence(confidence, ~right, overlap=40) == []  # sixteen windows are too few
