"""All checks of data in turn, on real recordings and on small ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonescope_server.checks import Declared, series_of
from tonescope_server.checks.data import SKIPPED_LENGTHS, check_recording, check_windows
from tonescope_server.csi.cells import cell_map
from tonescope_server.csi.decoders import open_recording
from tonescope_server.csi.tones import tone_table
from tonescope_server.engine.explainer import installed_plugins

RECORDINGS = ("pretrain-1775182186.csi.jsonl", "rec_1772470567081-20260302_165607.csi.jsonl")


@pytest.fixture
def count_declared():
    return Declared(cell_map((56, 20), tone_table("ruview56"), "tone_frame", 20))


def read(shared, name):
    return series_of(open_recording(shared / "real/ruview" / name, installed_plugins().decoders))


def windows_of(series):
    """Cut frames into windows, frames first: (n, 20, 56)."""
    amplitude = series.amplitude[:, :56]
    return np.stack([amplitude[start : start + 20] for start in range(0, len(amplitude) - 19, 10)])


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_real_recording_is_found_to_be_in_order(shared, count_declared, name):
    assert check_recording(read(shared, name), count_declared) == []


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", RECORDINGS)
def test_real_windows_labelled_as_the_public_pipeline_labels_them_are_frame_major(
    shared, count_declared, name, normalised
):
    for series in [s for s in read(shared, name) if len(s) > 200]:
        cells = windows_of(series).reshape(-1, 56, 20)
        declared = count_declared
        if normalised:
            mean, std = cells.mean(axis=(0, 2), keepdims=True), cells.std(axis=(0, 2), keepdims=True)
            cells, declared = (cells - mean) / (std + 1e-6), replace(declared, normalisation="recording")
        assert [f.code for f in check_windows(cells, declared)] == ["FRAME_MAJOR"]
        right = np.ascontiguousarray(cells.reshape(-1, 20, 56).transpose(0, 2, 1))
        if not normalised:
            assert check_windows(right, declared) == []


def test_a_recording_of_which_most_cannot_be_used_says_so(amplitude, series_from, declared):
    short = series_from(amplitude[:, :56])
    found = check_recording([short], declared)
    assert [f.code for f in found] == [SKIPPED_LENGTHS]
    assert found[0].figures["skipped_share"] == 1


def test_one_fault_on_two_nodes_is_told_once_for_each(amplitude, series_from, declared):
    rolled = np.roll(amplitude, 1, axis=1)
    found = check_recording([series_from(rolled, node=n) for n in (3, 4)], declared)
    assert [(f.code, f.node_id) for f in found] == [("TONES_ROLLED", 3), ("TONES_ROLLED", 4)]


def test_engineered_features_have_no_rows_to_be_told_wrong(amplitude):
    features = cell_map((64,), tone_table("unknown_64"), "feature", 1)
    assert check_windows(np.repeat(amplitude[:, :1], 64, axis=1), Declared(features)) == []


def test_longer_frames_that_hold_no_header_are_told_as_frames_that_cannot_be_used(series_from, declared):
    longer = np.abs(np.random.default_rng(1).normal(20, 1, (200, 70))).astype(np.float32)
    assert [f.code for f in check_recording([series_from(longer)], declared)] == [SKIPPED_LENGTHS]


@pytest.mark.parametrize("kind", ["frames", "windows"])
def test_what_stands_still_or_is_zero_says_nothing_of_the_layout(amplitude, windows, series_from, declared, kind):
    for still, code in [(np.repeat(amplitude[:1], 200, axis=0), "FROZEN_SENDER"), (0 * amplitude, "NO_SIGNAL")]:
        if kind == "frames":
            found = check_recording([series_from(still)], declared)
        else:
            found = check_windows(np.stack([still[:20].T] * 19), declared)
        assert [f.code for f in found] == [code]


def test_rows_of_another_layout_are_not_held_against_the_statistics_of_the_declared(amplitude, series_from, declared):
    trained = replace(declared, normalisation="manifest", mean=amplitude.mean(axis=0), std=amplitude.std(axis=0))
    found = check_recording([series_from(np.fft.fftshift(amplitude, axes=1))], trained)
    assert [f.code for f in found] == ["LAYOUT_MISMATCH"]
