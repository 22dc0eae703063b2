"""Completeness: what is missed, with what lies on null tones and by the baseline that is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tonescope_plugins.metrics.completeness import Completeness


def test_what_a_linear_model_says_itself_has_nothing_missing(judged, linear, measure):
    subject = judged(linear, explain=linear.contributions)
    np.testing.assert_allclose(measure(Completeness(), subject).values, 0, atol=1e-12)


def test_completeness_counts_what_lies_on_null_tones_and_goes_by_the_baseline(judged, linear, measure):
    subject = judged(linear, linear.contributions(judged(linear, np.zeros((3, 6))).x), baseline=1.0)
    missed = abs(linear(np.ones((1, 6, 2)))[0])
    np.testing.assert_allclose(measure(Completeness(), subject).values, missed, rtol=1e-12)
    moved = replace(subject, elsewhere=np.full(3, 10.0))
    signed = linear(np.ones((1, 6, 2)))[0]
    np.testing.assert_allclose(measure(Completeness(), moved).values, abs(10 + signed), rtol=1e-12)
