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


def weakened(amplitude, by_db):
    return (amplitude * 10 ** (-by_db[:, None] / 20)).astype(np.float32)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("shape", "drift_db"), [("steady", 5.25), ("slowing", 4.86)])
def test_a_slow_drift_is_no_step_and_is_told_as_drift(amplitude, series_from, sign, shape, drift_db):
    """Six decibels in all, evenly or as a receiver warms up; the ends are told by their eighths' middles."""
    part = np.arange(200) / 200
    drift = 6 * (part if shape == "steady" else (1 - np.exp(-3 * part)) / (1 - np.exp(-3)))
    (finding,), level = check_gain(series_from(weakened(amplitude, sign * drift)), NULL)
    assert finding.code == GAIN_DRIFT
    assert f"by {'+' if sign < 0 else '-'}" in finding.message
    assert finding.figures["drift_db"] == pytest.approx(drift_db, abs=0.2)
    middle = np.median(level.amplitude[:, ~NULL], axis=1)
    assert middle.std() / middle.mean() < 0.02


@pytest.mark.parametrize("middle", [0.2, 0.5, 0.8, 0.93])
@pytest.mark.parametrize(("dip_db", "width"), [(6, 0.04), (10, 0.025), (8, 0.08), (6, 0.15)])
def test_a_dip_that_comes_back_is_no_drift(amplitude, series_from, dip_db, width, middle):
    """Someone walks through the line of sight: of all tones, from a few frames to a third of the stream."""
    dip = dip_db * np.exp(-(((np.arange(200) / 200 - middle) / width) ** 2))
    series = series_from(weakened(amplitude, dip))
    found, same = check_gain(series, NULL)
    assert found == []
    assert same is series


def test_a_level_that_goes_to_and_fro_is_no_drift(amplitude, series_from):
    part = np.arange(200) / 200
    assert check_gain(series_from(weakened(amplitude, 2.7 * part + 3 * np.sin(8 * np.pi * part))), NULL)[0] == []


def test_a_drift_is_told_although_someone_walks_by(amplitude, series_from):
    part = np.arange(200) / 200
    drift = 3 * part + 15 * np.exp(-(((part - 0.94) / 0.012) ** 2))
    assert [f.code for f in check_gain(series_from(weakened(amplitude, drift)), NULL)[0]] == [GAIN_DRIFT]


@pytest.mark.parametrize("at", [60, 93, 100, 112, 140])
@pytest.mark.parametrize("frames", [6, 10])
def test_a_door_that_stays_shut_is_neither_a_step_nor_a_drift(amplitude, series_from, at, frames):
    shut = 6 * np.clip((np.arange(200) - at) / frames, 0, 1)
    assert check_gain(series_from(weakened(amplitude, shut)), NULL)[0] == []


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
