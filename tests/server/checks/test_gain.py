"""Steps of gain against what moves people make."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.checks.gain import GAIN_DRIFT, GAIN_STEPS, check_gain
from tonescope_server.csi.tones import tone_table

NULL = tone_table("esp_lltf").null_mask


def stepped(amplitude, db, at=(60, 140)):
    gain_db = np.zeros(len(amplitude))
    gain_db[at[0] : at[1]] = db
    return (amplitude * 10 ** (gain_db[:, None] / 20)).astype(np.float32)


@pytest.mark.parametrize("db", [-6.0, -2.0, 2.0, 6.0])
def test_steps_are_counted_and_measured(amplitude, series_from, db):
    found, level = check_gain(series_from(stepped(amplitude, db)), NULL)
    assert [f.code for f in found] == [GAIN_STEPS]
    assert found[0].figures["steps"] == 2
    assert found[0].figures["largest_step_db"] == pytest.approx(abs(db), abs=0.3)
    assert found[0].node_id == 1
    middle = np.median(level.amplitude[:, ~NULL], axis=1)
    assert middle.std() / middle.mean() < 0.02


def test_a_steady_gain_raises_nothing(amplitude, series_from):
    series = series_from(amplitude)
    found, same = check_gain(series, NULL)
    assert found == []
    assert same is series


def test_a_slow_drift_is_no_step_and_is_told_as_drift(amplitude, series_from):
    drift_db = 6 * np.sin(np.arange(200) / 200 * np.pi)
    drifting = (amplitude * 10 ** (drift_db[:, None] / 20)).astype(np.float32)
    (finding,), level = check_gain(series_from(drifting), NULL)
    assert finding.code == GAIN_DRIFT
    # Between the means of the first eighth and of one in the middle.
    assert finding.figures["drift_db"] == pytest.approx(4.8, abs=0.2)
    middle = np.median(level.amplitude[:, ~NULL], axis=1)
    assert middle.std() / middle.mean() < 0.02


def test_a_drift_of_one_decibel_is_usual(amplitude, series_from):
    drift_db = np.linspace(0, 1, 200)
    drifting = (amplitude * 10 ** (drift_db[:, None] / 20)).astype(np.float32)
    assert check_gain(series_from(drifting), NULL)[0] == []


def test_tones_that_drift_apart_are_no_drift_of_the_gain(amplitude, series_from):
    drift_db = np.linspace(0, 1, 200)[:, None] * np.random.default_rng(8).uniform(-2, 10, 64)
    drifting = (amplitude * 10 ** (drift_db / 20)).astype(np.float32)
    assert check_gain(series_from(drifting), NULL)[0] == []


def test_someone_who_moves_tones_by_different_amounts_is_no_step(amplitude, series_from):
    change = np.random.default_rng(3).uniform(0.3, 1.0, 64)
    moved = amplitude.copy()
    moved[60:140] *= change.astype(np.float32)
    assert check_gain(series_from(moved), NULL)[0] == []


def test_one_loud_frame_is_no_step(amplitude, series_from):
    assert check_gain(series_from(stepped(amplitude, 6.0, at=(60, 61))), NULL)[0] == []


def test_normalised_values_are_not_judged(amplitude, series_from):
    assert check_gain(series_from(stepped(amplitude, 6.0) - 20), NULL)[0] == []
