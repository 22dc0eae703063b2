"""Frames that should not be there, or should not be alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonescope_server.checks import frames
from tonescope_server.csi.tones import tone_table

LLTF = tone_table("esp_lltf")


def codes(findings):
    return [finding.code for finding in findings]


def with_ht_frames(amplitude, every):
    mixed = amplitude.copy()
    mixed[::every] *= 3.5
    mixed[::every, [27, 28, 36, 37]] = 60.0
    return mixed


def test_frames_of_another_training_field_are_told_with_their_share_and_level(amplitude, series_from):
    found, kept = frames.check_fields(series_from(with_ht_frames(amplitude, 4)), LLTF)
    assert codes(found) == [frames.MIXED_TRAINING_FIELDS]
    assert found[0].figures["share_of_other_field"] == pytest.approx(0.25)
    assert found[0].figures["amplitude_ratio"] == pytest.approx(3.5, rel=0.05)
    assert '"esp_ht20"' in found[0].message
    assert len(kept) == 150


def test_frames_of_one_field_are_all_kept(amplitude, series_from):
    found, kept = frames.check_fields(series_from(amplitude), LLTF)
    assert found == []
    assert len(kept) == len(amplitude)


def test_the_first_56_rows_tell_the_fields_apart_too(amplitude, series_from):
    cut = series_from(with_ht_frames(amplitude, 4)[:, :56])
    assert codes(frames.check_fields(cut, tone_table("ruview56"))[0]) == [frames.MIXED_TRAINING_FIELDS]


def test_copies_of_recent_frames_are_told_and_taken_out(amplitude, series_from):
    copied = amplitude.copy()
    copied[51], copied[102] = copied[50], copied[100]
    found, kept = frames.check_duplicates(series_from(copied))
    assert codes(found) == [frames.DUPLICATE_FRAMES]
    assert found[0].figures["duplicate_share"] == pytest.approx(0.01)
    assert len(kept) == 198


def test_windows_that_overlap_are_no_copies(amplitude):
    windows = np.stack([amplitude[start : start + 20] for start in range(0, 180, 19)])
    follows = np.tile(np.arange(20) > 0, len(windows))
    series = frames.Series(windows.reshape(-1, 64), np.arange(64), follows)
    assert frames.check_duplicates(series)[0] == []


def test_an_empty_channel_is_not_all_copies(series_from):
    assert frames.check_duplicates(series_from(np.zeros((50, 64), np.float32)))[0] == []


def test_rows_that_are_copies_are_told_and_nulls_are_not(amplitude, series_from):
    assert frames.check_rows(series_from(amplitude), LLTF.null_mask) == []
    amplitude[:, 20] = amplitude[:, 10]
    (finding,) = frames.check_rows(series_from(amplitude), LLTF.null_mask)
    assert finding.code == frames.DUPLICATE_ROWS
    assert "20 (of 10)" in finding.message


def test_a_node_that_never_sends_is_told_where_it_was_declared(amplitude, series_from, declared):
    alone = [series_from(amplitude, node=1, time_s=np.arange(200) / 20)]
    assert frames.check_nodes(alone, declared) == []
    (finding,) = frames.check_nodes(alone, replace(declared, nodes=(1, 2)))
    assert (finding.code, finding.node_id) == (frames.MISSING_NODE, 2)


def test_a_node_that_falls_silent_is_told(amplitude, series_from, declared):
    first = series_from(amplitude, node=1, time_s=np.arange(200) / 20)
    second = series_from(amplitude[:100], node=2, time_s=np.arange(100) / 20)
    (finding,) = frames.check_nodes([first, second], declared)
    assert (finding.code, finding.node_id) == (frames.MISSING_NODE, 2)
    assert finding.figures["silent_s"] == pytest.approx(5.0)


def test_clocks_that_count_from_each_nodes_start_say_nothing_of_silence(amplitude, series_from, declared):
    first = series_from(amplitude, node=1, time_s=np.arange(200) / 20, one_clock=False)
    second = series_from(amplitude, node=2, time_s=900 + np.arange(200) / 20, one_clock=False)
    assert frames.check_nodes([first, second], declared) == []


def test_a_node_heard_at_two_lengths_is_silent_only_when_both_are(amplitude, series_from, declared):
    first = series_from(amplitude, node=1, time_s=np.arange(200) / 20)
    early = series_from(amplitude[:100], node=2, time_s=np.arange(100) / 20)
    late = series_from(np.tile(amplitude[100:], 2), node=2, time_s=5 + np.arange(100) / 20)
    assert frames.check_nodes([first, early, late], declared) == []


@pytest.mark.parametrize(("rate_hz", "told"), [(20.0, False), (23.0, False), (30.0, True), (10.0, True)])
def test_a_rate_beyond_the_tolerance_is_told(amplitude, series_from, declared, rate_hz, told):
    series = series_from(amplitude, time_s=np.arange(200) / rate_hz)
    found = frames.check_rate(series, replace(declared, rate_hz=20.0, tolerance=0.2))
    assert codes(found) == ([frames.RATE_MISMATCH] if told else [])
    assert all(finding.figures["rate_hz"] == pytest.approx(rate_hz) for finding in found)


def test_a_rate_that_is_not_declared_is_not_judged(amplitude, series_from, declared):
    assert frames.check_rate(series_from(amplitude, time_s=np.arange(200) / 3), declared) == []
