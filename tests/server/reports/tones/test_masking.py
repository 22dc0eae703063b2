"""Accuracy against K, held against models and tones whose worth is known."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import ParameterError
from tonescope_server.reports.tones.masking import (
    Fill,
    Measure,
    accuracy_curve,
    curve_ks,
    fold_of,
    measure_curve,
    scorer,
)
from tonescope_server.reports.tones.resampling import Sources
from tonescope_server.testing import tiny_models, tiny_windows

N, TONES = 40, 12


def one_recording(n=N):
    return Sources(np.zeros(n, np.int64), np.zeros(n, np.int64), (1,))


def of(name):
    return Explainer(tiny_models()[name], installed_plugins())


def additive(worth):
    """Score a set by what its tones are worth, the same in every window."""
    return lambda keep: np.broadcast_to(keep, (N, TONES)) @ worth


def test_the_best_tones_beat_random_ones_and_the_worst_fall_behind():
    worth = np.arange(TONES, dtype=float) / 66
    importance = np.tile(worth, (N, 1))
    may = np.ones(TONES, bool)
    rng = np.random.default_rng(0)
    chosen, random, lowest = measure_curve(additive(worth), importance, one_recording(), may, (3, 6, 12), 200, rng)
    np.testing.assert_allclose(chosen.mean(axis=1), [30 / 66, 51 / 66, 1])
    np.testing.assert_allclose(lowest.mean(axis=1), [3 / 66, 15 / 66, 1])
    np.testing.assert_allclose(random.mean(axis=0), [3 / 12, 6 / 12, 1], atol=0.02)
    assert (random[:, 0] <= 30 / 66 + 1e-9).all()


def test_each_half_is_tried_with_the_ranking_of_the_other():
    """Tones that look good in the very windows that they are tried on, and in no other, are worth nothing."""
    sources = Sources(np.repeat([0, 1], N // 2), np.zeros(N, np.int64), (1, 1))
    first = sources.recordings == 0
    importance = np.zeros((N, TONES))
    importance[first, :3], importance[~first, 3:6] = 1, 1

    def score(keep):
        own = np.where(first[:, None], np.arange(TONES) < 3, (np.arange(TONES) >= 3) & (np.arange(TONES) < 6))
        return (np.broadcast_to(keep, own.shape) & own).sum(axis=1) / 3

    may = np.ones(TONES, bool)
    chosen, _, _ = measure_curve(score, importance, sources, may, (3,), 1, np.random.default_rng(0))
    assert not chosen.any()


def test_tones_that_may_not_be_chosen_are_never_kept():
    may = np.arange(TONES) >= 4
    kept = []

    def score(keep):
        kept.append(np.broadcast_to(keep, (N, TONES)))
        return np.zeros(N)

    importance = np.tile(np.arange(TONES)[::-1], (N, 1)).astype(float)
    measure_curve(score, importance, one_recording(), may, (2, 8), 20, np.random.default_rng(0))
    assert len(kept) == 2 * (2 + 20)
    for keep in kept:
        assert not keep[:, ~may].any()
        assert set(keep.sum(axis=1)) in ({2}, {8})


def test_a_single_recording_is_split_by_its_quarters_and_several_by_themselves():
    assert fold_of(one_recording(8)).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    several = Sources(np.array([0, 0, 1, 1, 2]), np.zeros(5, np.int64), (1, 1, 1))
    assert fold_of(several).tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("name", ["scrambled", "conv_1d", "complex"])
@pytest.mark.parametrize("fill", list(Fill))
def test_masked_tones_hold_the_filling_in_whatever_order_the_cells_lie(name, fill):
    explainer = of(name)
    x = tiny_windows(explainer.model, 9)
    keep = np.zeros(explainer.model.cells.n_tones, bool)
    keep[[1, 4, 7]] = True
    masked = x.copy().reshape(9, -1)
    stated = explainer.model.manifest.baseline
    cells = explainer.model.cells
    for cell, tone in enumerate(cells.tone_of_cell):
        if not keep[tone]:
            own = np.ones(len(cells.tone_of_cell), bool)  # the cells of the same tone, link and component
            for of_cell in (cells.tone_of_cell, cells.link_of_cell, cells.component_of_cell):
                own &= of_cell == of_cell[cell]
            value = x.reshape(9, -1)[:, own].mean() if fill is Fill.MEAN else None
            masked[:, cell] = (stated.tones[tone] if stated.tones else stated.value) if value is None else value
    wanted = explainer.predict(masked.reshape(x.shape)).class_index == explainer.predict(x).class_index
    score, measure = scorer(explainer, x, None, fill)
    assert measure is Measure.AGREEMENT
    np.testing.assert_array_equal(score(keep), wanted)
    assert 0 < wanted.mean() < 1


def test_each_window_may_keep_tones_of_its_own():
    explainer = of("scrambled")
    x = tiny_windows(explainer.model, 300)
    score, _ = scorer(explainer, x, None, Fill.MEAN)
    keeps = np.random.default_rng(0).random((2, explainer.model.cells.n_tones)) < 0.5
    which = np.arange(300) % 2
    both = np.stack([score(keep) for keep in keeps])
    np.testing.assert_array_equal(score(keeps[which]), both[which, np.arange(300)])


def test_labels_make_it_accuracy():
    explainer = of("scrambled")
    x = tiny_windows(explainer.model, 50)
    labels = np.random.default_rng(0).integers(0, 3, 50)
    score, measure = scorer(explainer, x, labels, Fill.MEAN)
    assert measure is Measure.ACCURACY
    everything = np.ones(explainer.model.cells.n_tones, bool)
    np.testing.assert_array_equal(score(everything), explainer.predict(x).class_index == labels)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_that_are_none_of_the_classes_are_refused(wrong):
    explainer = of("scrambled")
    with pytest.raises(ParameterError, match=r"labels: expected classes from 0 to 2, got"):
        scorer(explainer, tiny_windows(explainer.model, 2), np.array([0, wrong]), Fill.MEAN)


def test_a_model_without_classes_is_measured_by_how_much_of_its_output_is_left():
    explainer = of("mlp")
    x = tiny_windows(explainer.model, 30)
    score, measure = scorer(explainer, x, None, Fill.MEAN)
    assert measure is Measure.R_SQUARED
    full = explainer.predict(x).scores.astype(np.float64)
    keep = np.arange(12) < 6
    left = explainer.predict(np.where(keep, x, x.mean(axis=0, dtype=np.float64).astype(np.float32))).scores
    wanted = 1 - ((left - full) ** 2).sum() / ((full - full.mean(axis=0)) ** 2).sum()
    assert score(keep).mean() == pytest.approx(wanted, abs=1e-5)
    assert score(np.ones(12, bool)).mean() == 1
    assert score(np.zeros(12, bool)).mean() < 0.1
    with pytest.raises(ParameterError, match="got a regression"):
        scorer(explainer, x, np.zeros(30, np.int64), Fill.MEAN)


def test_a_curve_has_its_bands_and_says_how_likely_random_tones_do_as_well():
    explainer = of("scrambled")
    x = tiny_windows(explainer.model, N)
    tones = explainer.model.cells.n_tones
    importance = np.abs(explainer.explain(x, "occlusion").tones).astype(np.float64)
    may, ks, rng = np.ones(tones, bool), curve_ks((3,), tones), np.random.default_rng(0)
    curve = accuracy_curve(explainer, x, None, importance, one_recording(), may, ks, Fill.MEAN, 30, rng)
    assert curve.ks == (1, 2, 3, 4, 8, 10)
    assert curve.random.shape == (30, 6)
    low, high = curve.random_band()
    assert (low <= np.median(curve.random, axis=0)).all()
    assert (np.median(curve.random, axis=0) <= high).all()
    assert (curve.chosen_low <= curve.chosen).all()
    assert (curve.chosen <= curve.chosen_high).all()
    assert curve.chosen[-1] == curve.lowest[-1] == curve.intact == 1.0
    assert curve.p_value[-1] == 1.0
    at_least = (curve.random[:, 2] >= curve.chosen[2]).sum()
    assert curve.p_value[2] == (1 + at_least) / 31
