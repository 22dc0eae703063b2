"""Drift: what a part of the training data can look like, and what it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.faults import captures_of, clean_frames, declared_by, raw_windows, z_scores
from tonescope_server import Explainer
from tonescope_server.checks.data import check_recording, check_windows
from tonescope_server.checks.drift import (
    ATTRIBUTION_DRIFT,
    INPUT_DRIFT,
    attribution_profile,
    check_attribution,
    check_input,
    divergence,
    effective_frames,
    mean_error,
)
from tonescope_server.csi.tones import tone_table
from tonescope_server.demo import store_path

SEEDS = range(100)
NULL = tone_table("esp_lltf").null_mask


@pytest.fixture(scope="module")
def explainer():
    return Explainer.load(store_path() / "people_count" / "1")


@pytest.fixture(scope="module")
def trained(explainer):
    stated = explainer.model.manifest.normalisation
    return declared_by(np.array(stated.mean), np.array(stated.std))


def another_room(seed, trained, ripple=0.2):
    """Multiply the tones by a smooth ripple: other reflections, and the same people."""
    shape = 1 + ripple * np.sin(np.arange(64) / 5)
    stream = clean_frames(seed, trained)
    return [replace(s, amplitude=(s.amplitude * shape).astype(np.float32)) for s in stream.series]


def codes(findings):
    return [finding.code for finding in findings]


def test_clean_streams_have_not_drifted_although_they_show_a_part_of_what_was_trained(trained):
    series = [s for seed in SEEDS for s in clean_frames(seed, trained).series]
    assert [f for s in series for f in check_input(s, trained, raw=True)] == []


def test_a_stability_index_would_have_called_every_one_of_them_drifted(trained):
    """The reason for another test, measured as the docstring says: ten bins a tone, bounds from training scenes."""
    reference = np.concatenate([c.amplitude for seed in range(200, 240) for c in captures_of(seed)])[:, ~NULL]
    edges = np.quantile(reference, np.linspace(0, 1, 11)[1:-1], axis=0)

    def index(values, tone):
        share = np.bincount(np.searchsorted(edges[:, tone], values), minlength=10) / len(values) + 1e-4
        return float(((share - 0.1) * np.log(share / 0.1)).sum())

    worst = []
    for seed in SEEDS:
        amplitude = captures_of(seed)[0].amplitude[:, ~NULL]
        worst.append(max(index(amplitude[:, tone], tone) for tone in range(amplitude.shape[1])))
    assert min(worst) > 0.25


def test_another_room_is_drift_and_nothing_else(trained):
    for seed in range(10):
        found = check_recording(another_room(seed, trained), trained)
        assert codes(found) == [INPUT_DRIFT] * 2, found
        assert found[0].figures["largest_shift_std"] > 3
        assert 1 <= found[0].figures["effective_frames"] <= 400
        assert {f.node_id for f in found} == {1, 2}


def test_windows_that_are_normalised_by_the_training_show_it_too(trained):
    shape = (1 + 0.2 * np.sin(np.arange(64) / 5)).astype(np.float32)
    cells = z_scores(raw_windows(1) * shape, trained).transpose(0, 2, 1)
    assert codes(check_windows(cells, trained)) == [INPUT_DRIFT]
    assert check_windows(cells, replace(trained, normalisation="recording")) == []


def test_values_far_out_are_drift_where_the_mean_stays(trained):
    rng = np.random.default_rng(2)
    series = clean_frames(3, trained).series[0]
    spikes = (rng.random(series.amplitude.shape) < 0.03) & ~NULL
    far = series.amplitude + (spikes * rng.choice([-1, 1], spikes.shape) * 6 * trained.std).astype(np.float32)
    (finding,) = check_input(replace(series, amplitude=far), trained, raw=True)
    assert finding.figures["share_beyond_4_std"] > 0.01
    assert finding.figures["share_of_tones_shifted"] == 0


def test_a_mean_known_from_few_independent_frames_proves_little():
    """Two halves far apart: the mean's error is as large as its distance."""
    rng = np.random.default_rng(0)
    steady = rng.normal(0, 1, (400, 3))
    assert effective_frames(steady, mean_error(steady)) > 100
    stepped = steady + 10 * (np.arange(400)[:, None] >= 350)
    assert effective_frames(stepped, mean_error(stepped)) < 20


def test_a_mean_that_may_be_off_by_chance_is_no_drift(trained):
    """Seven blocks of eight lie 3.9 standard deviations off, one at the other side: the mean is 3.04 ± 0.86 off."""
    series = clean_frames(3, trained).series[0]
    off = np.where(np.arange(400) < 350, 3.9, -3.0)[:, None]
    unsure = replace(series, amplitude=(trained.mean + off * trained.std).astype(np.float32))
    assert check_input(unsure, trained, raw=True) == []
    sure = replace(series, amplitude=(trained.mean + (3.04 + 1e-3 * np.sign(off)) * trained.std).astype(np.float32))
    assert codes(check_input(sure, trained, raw=True)) == [INPUT_DRIFT]


def test_without_training_statistics_nothing_is_said(trained):
    bare = replace(trained, mean=None, std=None)
    assert check_input(another_room(1, trained)[0], bare, raw=True) == []


def test_the_divergence_is_a_distance_of_distributions():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])
    assert divergence(p, p) == 0
    assert divergence(p, q) == pytest.approx(1)
    assert divergence(p, np.array([0.25, 0.75, 0])) == divergence(np.array([0.25, 0.75, 0]), p)
    # by hand: ½ (0.5·log₂(4/3) + 0.5·log₂(0.5/0.625)) + ½ (0.25·log₂(2/3) + 0.75·log₂(1.2))
    assert divergence(p, np.array([0.25, 0.75, 0])) == pytest.approx(0.0487949, abs=1e-6)


def test_a_profile_is_the_share_of_magnitude_and_zero_where_there_is_none():
    tones = np.array([[1, -3], [2, -2]], np.float32)
    assert attribution_profile(tones).tolist() == [0.375, 0.625]
    assert attribution_profile(np.zeros((2, 2), np.float32)).tolist() == [0, 0]


@pytest.fixture(scope="module")
def attributions(explainer, trained):
    """Attribution per tone of each clean stream's windows, node by node."""
    found = []
    for seed in SEEDS:
        both = z_scores(raw_windows(seed), trained).transpose(0, 2, 1)
        tones = explainer.explain(np.ascontiguousarray(both)).tones
        found += [tones[: len(tones) // 2], tones[len(tones) // 2 :]]
    return found


@pytest.fixture(scope="module")
def training_profile(explainer, trained):
    windows = np.concatenate([raw_windows(seed) for seed in range(200, 220)])
    cells = np.ascontiguousarray(z_scores(windows, trained).transpose(0, 2, 1))
    return attribution_profile(explainer.explain(cells).tones)


def others_of_the_node(attributions):
    """Pair each stream's attributions with those of the same node in the next scene."""
    return [(attribution_profile(first), later) for first, later in zip(attributions, attributions[2:], strict=False)]


def test_clean_streams_attributions_have_not_drifted(attributions, training_profile):
    assert [f for tones in attributions for f in check_attribution(tones, training_profile)] == []
    assert [f for start, tones in others_of_the_node(attributions) for f in check_attribution(tones, None, start)] == []


def test_attribution_that_moved_to_other_tones_is_told(attributions, training_profile):
    moved = [check_attribution(np.roll(tones, 1, axis=1), training_profile, node_id=4) for tones in attributions]
    told = [each[0] for each in moved if each]
    assert len(told) >= 0.95 * len(attributions)
    assert {(finding.code, finding.node_id) for finding in told} == {(ATTRIBUTION_DRIFT, 4)}
    assert all(finding.figures["divergence_bits"] > 0.35 for finding in told)


def test_against_a_streams_own_beginning_most_of_it_is_told(attributions):
    """The bound must allow for a stream in which people come and go, so this is the weaker test."""
    pairs = others_of_the_node(attributions)
    told = sum(bool(check_attribution(np.roll(tones, 1, axis=1), None, start)) for start, tones in pairs)
    assert told >= 0.5 * len(pairs)


def test_few_windows_prove_nothing(attributions, training_profile):
    assert check_attribution(np.roll(attributions[0][:31], 5, axis=1), training_profile) == []
