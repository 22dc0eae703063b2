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


def test_the_field_of_fewer_tones_is_told_among_frames_of_the_other(amplitude, series_from):
    """The nulls of an HT-LTF are among those of an LLTF: the rows that are null in the other field alone tell them."""
    ht = tone_table("esp_ht20")
    mixed = np.where(ht.null_mask, 0, np.maximum(amplitude, 20)).astype(np.float32)
    mixed[::4] /= 3.5
    mixed[::4, LLTF.null_mask] = 0
    found, kept = frames.check_fields(series_from(mixed), ht)
    assert codes(found) == [frames.MIXED_TRAINING_FIELDS]
    assert found[0].figures["share_of_other_field"] == pytest.approx(0.25)
    assert found[0].figures["amplitude_ratio"] == pytest.approx(1 / 3.5, rel=0.05)
    assert '"esp_lltf"' in found[0].message
    assert len(kept) == 150


def test_weak_tones_that_are_zero_by_chance_are_no_other_field(amplitude, series_from):
    ht = tone_table("esp_ht20")
    weak = np.where(ht.null_mask, 0, np.maximum(amplitude, 20)).astype(np.float32)
    edge = LLTF.null_mask & ~ht.null_mask
    weak[:, edge] = np.random.default_rng(6).random((200, edge.sum())) < 0.5
    assert (weak[:, edge] == 0).all(axis=1).mean() > frames.FEWEST_OF_A_KIND
    assert frames.check_fields(series_from(weak), ht)[0] == []


def test_frames_of_one_field_are_all_kept(amplitude, series_from):
    found, kept = frames.check_fields(series_from(amplitude), LLTF)
    assert found == []
    assert len(kept) == len(amplitude)


def test_the_first_56_rows_tell_the_fields_apart_too(amplitude, series_from):
    cut = series_from(with_ht_frames(amplitude, 4)[:, :56])
    assert codes(frames.check_fields(cut, tone_table("ruview56"))[0]) == [frames.MIXED_TRAINING_FIELDS]


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


def test_frames_lost_at_random_lower_the_rate(amplitude, series_from, declared):
    """Six intervals of ten are still whole ones: the median interval is as if nothing were lost."""
    arrived = np.random.default_rng(4).random(200) > 0.4
    series = series_from(amplitude[arrived], time_s=np.arange(200)[arrived] / 20)
    (finding,) = frames.check_rate(series, replace(declared, rate_hz=20.0, tolerance=0.25))
    assert finding.figures["rate_hz"] == pytest.approx(12, rel=0.1)
    assert finding.figures["lost_share"] == pytest.approx(0.4, abs=0.05)
    assert "lost" in finding.message


def test_a_pause_is_no_lower_rate(amplitude, series_from, declared):
    time_s = np.arange(200) / 20 + 60 * (np.arange(200) >= 100)
    assert frames.check_rate(series_from(amplitude, time_s=time_s), replace(declared, rate_hz=20.0)) == []


@pytest.mark.parametrize("where", ["between the others", "in place of others"])
def test_copies_make_no_other_rate(amplitude, series_from, declared, where):
    whole = series_from(amplitude, time_s=np.arange(200) / (40 if where == "between the others" else 20))
    once = whole.only(np.arange(200) % 2 == 0)
    assert frames.check_rate(whole, replace(declared, rate_hz=20.0), once) == []


def test_a_rate_that_is_not_declared_is_not_judged(amplitude, series_from, declared):
    assert frames.check_rate(series_from(amplitude, time_s=np.arange(200) / 3), declared) == []
