"""Frames that were sent before, and frames that hold nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.checks import Series
from tonescope_server.checks.copies import (
    DUPLICATE_FRAMES,
    FEWEST_FRAMES,
    FROZEN_RUN,
    FROZEN_SENDER,
    NO_SIGNAL,
    SMALLEST_SHARE,
    check_copies,
    marks_of,
)


def codes(findings):
    return [finding.code for finding in findings]


def laid_end_to_end(windows):
    follows = np.tile(np.arange(windows.shape[1]) > 0, len(windows))
    return Series(windows.reshape(-1, 64), np.arange(64), follows)


def test_equal_rows_and_no_others_have_equal_marks():
    rows = np.random.default_rng(0).integers(0, 3, (3000, 8)).astype(np.float32)
    marks = marks_of(rows)
    _, by_value = np.unique(rows, axis=0, return_inverse=True)
    _, by_mark = np.unique(marks, return_inverse=True)
    assert np.array_equal(by_value[:, None] == by_value, by_mark[:, None] == by_mark)


def test_frames_without_copies_are_all_kept(amplitude, series_from):
    series = series_from(amplitude)
    found, same = check_copies(series)
    assert found == []
    assert same is series


def test_copies_of_recent_frames_are_told_and_taken_out(amplitude, series_from):
    copied = amplitude.copy()
    copied[51], copied[102] = copied[50], copied[100]
    found, kept = check_copies(series_from(copied))
    assert codes(found) == [DUPLICATE_FRAMES]
    assert found[0].figures["duplicate_share"] == pytest.approx(0.01)
    assert len(kept) == 198


def test_one_frame_that_recurs_by_chance_is_no_copy(amplitude, series_from):
    """In a weak channel few values are to be had: equal frames stand anywhere, and in no row."""
    recurring = amplitude.copy()
    recurring[100:180:7] = recurring[3]
    assert check_copies(series_from(recurring))[0] == []


def rounded(noise, n=600):
    """A still channel of whole-number amplitudes: most tones never change, and few distinct frames are to be had."""
    rng = np.random.default_rng(11)
    values = np.round(rng.uniform(15, 25, 64) + noise * rng.standard_normal((n, 64)))
    return values.astype(np.float32)


@pytest.mark.parametrize("noise", [0.02, 0.05])
def test_frames_too_coarse_to_differ_are_no_copies(series_from, noise):
    series = series_from(rounded(noise))
    frames = list(series.amplitude)
    again = [
        any(np.array_equal(frame, before) for before in frames[max(t - 3, 0) : t]) for t, frame in enumerate(frames)
    ]
    assert np.mean(again) > 2 * SMALLEST_SHARE
    assert check_copies(series)[0] == []
    assert check_copies(laid_end_to_end(series.amplitude.reshape(30, 20, 64)))[0] == []


def test_copies_of_coarse_frames_are_told_where_they_are_more_than_chance(series_from):
    coarse = rounded(0.05)
    copied = np.repeat(coarse, np.where(np.random.default_rng(2).random(600) < 0.3, 2, 1), axis=0)
    (finding,), _ = check_copies(series_from(copied))
    assert finding.code == DUPLICATE_FRAMES
    assert finding.figures["duplicate_share"] > 0.3 / 1.3 * 0.9


@pytest.mark.parametrize("period", [2, 3])
def test_a_loop_of_two_or_three_frames_is_not_taken_for_chance(amplitude, series_from, period):
    (finding,), kept = check_copies(series_from(amplitude[np.arange(200) % period]))
    assert finding.code == DUPLICATE_FRAMES
    assert len(kept) == period


@pytest.mark.parametrize("period", [5, 10, 60])
def test_a_buffer_that_is_sent_over_and_over_is_told_with_its_length(amplitude, series_from, period):
    looped = amplitude[np.arange(200) % period]
    (finding,), kept = check_copies(series_from(looped))
    assert finding.code == DUPLICATE_FRAMES
    assert finding.figures["period_frames"] == period
    assert len(kept) == period


def test_a_sender_that_freezes_is_told_as_that(amplitude, series_from):
    frozen = amplitude.copy()
    frozen[120:] = frozen[119]
    (finding,), kept = check_copies(series_from(frozen))
    assert finding.code == FROZEN_SENDER
    assert finding.figures["frozen_share"] == pytest.approx(0.4)
    assert len(kept) == 120


def test_a_few_copies_in_a_row_are_not_yet_a_frozen_sender(amplitude, series_from):
    copied = amplitude.copy()
    copied[50 : 50 + FROZEN_RUN] = copied[50]
    assert codes(check_copies(series_from(copied))[0]) == [DUPLICATE_FRAMES]
    copied[50 + FROZEN_RUN] = copied[50]
    assert codes(check_copies(series_from(copied))[0]) == [FROZEN_SENDER]


def test_silence_is_told_as_silence_and_not_as_a_frozen_sender(amplitude, series_from):
    silent = amplitude.copy()
    silent[80:] = 0
    (finding,), kept = check_copies(series_from(silent))
    assert finding.code == NO_SIGNAL
    assert finding.figures["silent_share"] == pytest.approx(0.6)
    assert len(kept) == 80


def test_windows_that_overlap_are_no_copies(amplitude):
    windows = np.stack([amplitude[start : start + 20] for start in range(0, 180, 19)])
    assert check_copies(laid_end_to_end(windows))[0] == []


def test_windows_that_all_equal_the_one_before_are_copies(amplitude):
    windows = np.repeat(amplitude[None, :20], 10, axis=0)
    found, kept = check_copies(laid_end_to_end(windows))
    assert codes(found) == [DUPLICATE_FRAMES]
    assert len(kept) == 20


def test_windows_of_a_frozen_sender_are_told_as_that(amplitude):
    windows = np.repeat(np.repeat(amplitude[:1, None], 20, axis=1), 10, axis=0)
    assert codes(check_copies(laid_end_to_end(windows))[0]) == [FROZEN_SENDER]


def test_a_few_frames_prove_nothing(amplitude, series_from):
    alike = np.repeat(amplitude[:1], FEWEST_FRAMES - 1, axis=0)
    assert check_copies(series_from(alike))[0] == []
