"""Classes never trained, one class for ever, and confidence against labels."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.checks.finding import Severity
from tonescope_server.checks.predictions import (
    ALWAYS_ONE_CLASS,
    CLASS_NEVER_TRAINED,
    CONFIDENCE_OFF,
    CONFIDENCE_UNRELATED,
    calibration_error,
    check_classes,
    check_confidence,
    check_variety,
)

SEEDS = range(100)


def codes(findings):
    return {finding.code for finding in findings}


def test_classes_never_trained_are_named_and_counted():
    (finding,) = check_classes(np.array([0, 1, 5, 5, 1]), (0, 1), ("0", "1", "2", "3", "4", "five"), node_id=3)
    assert (finding.code, finding.node_id) == (CLASS_NEVER_TRAINED, 3)
    assert finding.figures["share_never_trained"] == pytest.approx(0.4)
    assert "'five'" in finding.message


def test_where_it_is_not_known_what_was_trained_nothing_is_said():
    assert check_classes(np.array([7]), ()) == []
    assert check_classes(np.array([0, 1]), (0, 1)) == []


def test_one_class_for_all_windows_is_a_note_once_there_are_enough():
    (finding,) = check_variety(np.full(40, 2))
    assert (finding.code, finding.severity) == (ALWAYS_ONE_CLASS, Severity.NOTE)
    assert check_variety(np.full(31, 2)) == []
    assert check_variety(np.array([2] * 39 + [1])) == []


@pytest.mark.parametrize(("low", "high", "n"), [(0.5, 1.0, 40), (0.5, 1.0, 200), (0.7, 0.95, 100), (0.9, 0.99, 300)])
def test_calibrated_confidence_raises_hardly_ever_an_alarm(low, high, n):
    """Two tests at a level of 0.01, of which few labels leave less: of 200, more than 9 have a chance of 1e-2."""
    rng = np.random.default_rng(3)
    alarms = 0
    for _ in range(200):
        confidence = rng.uniform(low, high, n)
        alarms += bool(check_confidence(confidence, rng.random(n) < confidence))
    assert alarms <= 9


def test_confidence_that_does_not_know_is_unrelated():
    """Stated from a half to one, and right in three of four whatever is stated."""
    rng = np.random.default_rng(4)
    found = [check_confidence(rng.uniform(0.5, 1.0, 200), rng.random(200) < 0.75) for _ in SEEDS]
    unrelated = [finding for each in found for finding in each if finding.code == CONFIDENCE_UNRELATED]
    assert len(unrelated) >= 85
    assert all(finding.figures["spearman"] < finding.figures["expected"] for finding in unrelated)


def test_confidence_that_is_upside_down_is_unrelated():
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0.5, 1.0, 100)
    assert CONFIDENCE_UNRELATED in codes(check_confidence(confidence, rng.random(100) < 1.5 - confidence))


def test_confidence_that_is_too_high_throughout_is_off_and_not_unrelated():
    rng = np.random.default_rng(6)
    truth = rng.uniform(0.3, 0.9, 300)
    stated = 1 / (1 + np.exp(-(np.log(truth / (1 - truth)) + 1.5)))
    assert codes(check_confidence(stated, rng.random(300) < truth)) == {CONFIDENCE_OFF}


def test_where_confidences_hardly_differ_nothing_is_told_of_their_order():
    rng = np.random.default_rng(7)
    found = [codes(check_confidence(rng.uniform(0.69, 0.71, 200), rng.random(200) < 0.7)) for _ in SEEDS]
    assert sum(CONFIDENCE_UNRELATED in each for each in found) <= 4


def test_overconfidence_is_off_with_its_error():
    rng = np.random.default_rng(5)
    for _ in range(20):
        found = check_confidence(np.full(100, 0.98), rng.random(100) < 0.7)
        assert codes(found) == {CONFIDENCE_OFF}
        assert found[0].figures["calibration_error"] == pytest.approx(0.28, abs=0.15)
        assert found[0].figures["p_value"] < 0.01


def test_the_calibration_error_is_the_mean_gap_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False])
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)


def test_windows_that_share_frames_count_once():
    confidence, right = np.repeat(np.full(20, 0.99), 10), np.repeat(np.arange(20) % 2 == 0, 10)
    assert CONFIDENCE_OFF in codes(check_confidence(confidence, right))
    assert check_confidence(confidence, right, every=10) == []  # twenty windows are too few
