"""What cells ought to look like once normalised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonescope_server.checks import Series
from tonescope_server.checks.layout import Reading
from tonescope_server.checks.normalisation import (
    WRONG_NORMALISATION,
    check_each_window,
    check_frames,
    check_windows,
    put_right,
)


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


def cut(windows):
    """Lay windows (n, frames, tones) end to end."""
    follows = np.tile(np.arange(windows.shape[1]) > 0, len(windows))
    return Series(windows.reshape(-1, windows.shape[2]).astype(np.float32), np.arange(windows.shape[2]), follows)


@pytest.fixture
def whole_parts():
    """Moduli of whole I and Q, as receivers give them: 240 frames, tones of many levels and of two kinds of spread."""
    rng = np.random.default_rng(9)
    spread = np.where(np.arange(64) % 4, 0.7, 4.0)
    parts = np.rint(rng.uniform(10, 20, (1, 64, 2)) + spread[:, None] * rng.standard_normal((240, 64, 2)))
    values = np.hypot(parts[..., 0], parts[..., 1])
    values[:, [0, *range(27, 38)]] = 0
    return values.astype(np.float32)


@pytest.fixture
def trained(declared, whole_parts):
    mean, std = whole_parts.mean(axis=0, dtype=np.float64), whole_parts.std(axis=0, dtype=np.float64)
    # Of other rooms than this one: neither mean nor spread are exactly this stream's.
    return replace(declared, normalisation="manifest", mean=mean + 0.3 * std, std=1.5 * std)


@pytest.mark.parametrize("divided", [True, False])
def test_windows_with_a_mean_of_their_own_are_told(whole_parts, trained, divided):
    windows = whole_parts.reshape(12, 20, 64)
    own = windows - windows.mean(axis=1, keepdims=True)
    (finding,) = check_windows(cut(own / (windows.std(axis=1, keepdims=True) + 1e-6) if divided else own), trained)
    assert finding.code == WRONG_NORMALISATION
    assert "every window" in finding.message


def test_a_recording_of_one_window_may_have_a_mean_of_zero(whole_parts, trained):
    own = whole_parts - whole_parts.mean(axis=0)
    own /= whole_parts.std(axis=0) + 1e-6
    assert check_windows(cut(own[None]), replace(trained, normalisation="recording", mean=None, std=None)) == []


def test_windows_normalised_each_as_a_whole_are_told_and_their_zeros_found(whole_parts, trained):
    windows = whole_parts.reshape(12, 20, 64)
    z = (windows - windows.mean(axis=(1, 2), keepdims=True)) / windows.std(axis=(1, 2), keepdims=True)
    (finding,), shifted = check_each_window(z, trained)
    assert finding.code == WRONG_NORMALISATION
    assert np.array_equal(shifted == 0, windows == 0)
    right = z_scores(windows, trained)
    assert check_each_window(right, trained) == ([], right)


def test_one_mean_for_all_tones_is_told_by_where_the_null_rows_stand(whole_parts, trained):
    z = (whole_parts - whole_parts.mean()) / whole_parts.std()
    for known in (trained, replace(trained, normalisation="recording", mean=None, std=None)):
        (finding,) = check_windows(cut(z.reshape(12, 20, 64)), known)
        assert "12 null rows" in finding.message
        assert finding.figures["null_rows_at"] == pytest.approx(z.min())


def test_null_rows_may_stand_where_the_manifests_statistics_put_them(whole_parts, declared):
    one = replace(
        declared,
        normalisation="manifest",
        mean=np.full(64, whole_parts.mean(dtype=np.float64)),
        std=np.full(64, whole_parts.std(dtype=np.float64)),
    )
    assert check_windows(cut(z_scores(whole_parts, one).reshape(12, 20, 64)), one) == []


@pytest.mark.parametrize("scale", [1.0, 1.0317])
def test_values_that_were_centred_and_not_divided_are_told_by_whole_squares_or_by_their_spread(
    whole_parts, trained, scale
):
    (finding,) = check_windows(cut((scale * whole_parts - trained.mean).reshape(12, 20, 64)), trained)
    assert finding.code == WRONG_NORMALISATION
    assert "not divided" in finding.message


def test_values_that_were_divided_and_not_centred_are_told_by_whole_squares(whole_parts, trained):
    (finding,) = check_windows(cut((whole_parts / (trained.std + trained.eps)).reshape(12, 20, 64)), trained)
    assert finding.code == WRONG_NORMALISATION
    assert "not subtracted" in finding.message


def test_values_brought_to_a_range_are_told(whole_parts, trained):
    (finding,) = check_windows(cut((whole_parts / whole_parts.max()).reshape(12, 20, 64)), trained)
    assert finding.code == WRONG_NORMALISATION
    assert "brought to a range" in finding.message


def test_amplitudes_normalised_rightly_raise_nothing_whatever_their_parts(whole_parts, trained):
    for scale in (1.0, 1.0317):
        assert check_windows(cut(z_scores(scale * whole_parts, trained).reshape(12, 20, 64)), trained) == []


def test_tones_mistaken_before_they_were_normalised_get_their_own_statistics_back(whole_parts, trained):
    windows = whole_parts.reshape(12, 20, 64)
    reading = Reading("tone_frame", "esp_lltf", 64, 20, rolled=1)
    right = z_scores(windows, trained)
    right[..., trained.cells.table.null_mask] = 0
    before = z_scores(np.roll(windows, 1, axis=2), trained)
    after = np.roll(z_scores(windows, trained), 1, axis=2)
    for scrambled in (before, after):
        flat = np.ascontiguousarray(scrambled.transpose(0, 2, 1)).reshape(12, -1)
        series = put_right(flat, reading, trained)
        assert series.amplitude[:, np.argsort(series.rows)] == pytest.approx(right.reshape(-1, 64), abs=1e-4)
