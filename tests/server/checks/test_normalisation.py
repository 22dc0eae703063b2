"""What cells ought to look like once normalised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonescope_server.checks.normalisation import WRONG_NORMALISATION, check_frames, check_windows


@pytest.fixture
def known(declared, amplitude):
    mean, std = amplitude.mean(axis=0, dtype=np.float64), amplitude.std(axis=0, dtype=np.float64)
    return replace(declared, normalisation="manifest", mean=mean, std=std)


def z_scores(amplitude, known):
    return ((amplitude - known.mean) / (known.std + known.eps)).astype(np.float32)


def codes(findings):
    return [finding.code for finding in findings]


def test_z_scores_raise_nothing(amplitude, known, series_from):
    assert check_windows(series_from(z_scores(amplitude, known)), known) == []
    assert check_frames(series_from(amplitude), known) == []


def test_raw_amplitudes_where_z_scores_are_taken_are_told(amplitude, known, series_from):
    (finding,) = check_windows(series_from(amplitude), known)
    assert finding.code == WRONG_NORMALISATION
    assert "raw amplitudes" in finding.message
    assert "--normalise manifest" in finding.remedy


def test_windows_normalised_twice_are_told(amplitude, known, series_from):
    twice = z_scores(z_scores(amplitude, known), known)
    assert codes(check_windows(series_from(twice), known)) == [WRONG_NORMALISATION]


def test_z_scores_where_raw_amplitudes_are_taken_are_told(amplitude, known, declared, series_from):
    assert codes(check_windows(series_from(z_scores(amplitude, known)), declared)) == [WRONG_NORMALISATION]
    assert check_windows(series_from(amplitude), declared) == []


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_statistics_of_another_receiver_are_told_with_the_ratio(amplitude, known, series_from, scale):
    elsewhere = replace(known, mean=known.mean * scale, std=known.std * scale)
    (finding,) = check_frames(series_from(amplitude), elsewhere)
    assert finding.code == WRONG_NORMALISATION
    assert f"{1 / scale:.3g} x" in finding.remedy


def test_a_stream_narrower_than_the_training_is_not_wrong(amplitude, known, series_from):
    wider = replace(known, mean=known.mean * 1.02, std=known.std * 3)
    assert check_frames(series_from(amplitude), wider) == []
