"""Which reading of the cells makes a model's attribution physically sensible."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.checks.layout import Reading
from tonescope_server.demo import recording_path
from tonescope_server.reports.dataset import Dataset, Kind, read_dataset
from tonescope_server.reports.readings import MOST_WINDOWS, null_share, try_readings

DECLARED = Reading("tone_frame", "ruview56", 56, 20)
TRUE = Reading("frame_tone", "ruview56", 56, 20)


def by_reading(trial):
    return {tried.reading: tried for tried in trial.tried}


@pytest.mark.parametrize("kind", ["npy", "paired"])
@pytest.mark.parametrize(("name", "share"), [("rec", 0.30), ("pretrain", 0.46)])
def test_scrambled_windows_put_as_much_on_null_tones_as_was_measured_for_them(count_v1, write, name, share, kind):
    trial = try_readings(count_v1, read_dataset(write(name, kind=kind), count_v1), "recording", 0)
    tried = by_reading(trial)
    # Measured before, with windows cut otherwise: 30 % and 46 %.
    assert tried[TRUE].share_now == pytest.approx(share, abs=0.01)
    assert tried[TRUE].share_if_declared == 0
    assert tried[DECLARED].share_now > 0.15
    assert trial.best is tried[TRUE]
    assert [t.is_sensible for t in (tried[DECLARED], tried[TRUE])] == [False, True]


@pytest.mark.parametrize("name", ["rec", "pretrain"])
def test_windows_that_are_laid_out_rightly_fit_as_declared(count_v1, write, name):
    trial = try_readings(count_v1, read_dataset(write(name, "right"), count_v1), "recording", 0)
    assert trial.best is trial.declared
    assert trial.declared.share_now == trial.declared.share_if_declared == 0
    assert not by_reading(trial)[TRUE].is_sensible


def test_the_share_is_of_input_times_gradient_and_of_the_null_cells_alone(count_v1, write):
    trial = try_readings(count_v1, read_dataset(write("rec"), count_v1), "", 0)
    cells = np.load(write("rec"))
    attribution = np.abs(count_v1.explain(cells).cells.astype(np.float64))
    null = count_v1.model.table.null_mask
    expected = attribution[:, null].sum() / attribution.sum()
    # The same products of float32, summed in another order.
    assert trial.declared.share_now == pytest.approx(expected, rel=1e-5)
    gradient = np.abs(count_v1.gradient(cells).astype(np.float64))
    assert trial.declared.gradient_share == pytest.approx(gradient[:, null].sum() / gradient.sum(), rel=1e-5)


def test_the_simulators_layout_is_told_from_all_others_of_its_length(demo_model):
    trial = try_readings(demo_model, read_dataset(recording_path(), demo_model), "", 0)
    layouts = {tried.reading.layout for tried in trial.tried}
    assert {"esp_lltf", "esp_ht20", "esp_lltf_secondary", "esp_c6_64"} <= layouts
    assert {tried.reading.layout for tried in trial.fitting} == {"esp_lltf"}
    assert trial.best is trial.declared


def test_frames_that_are_laid_out_here_say_nothing_of_the_present_cells_in_another_order(demo_model):
    trial = try_readings(demo_model, read_dataset(recording_path(), demo_model), "", 0)
    for tried in trial.tried:
        assert (tried.share_now is None) == (tried.reading.cell_order == "frame_tone")


def test_a_model_trained_without_signal_on_its_nulls_keeps_its_gradient_off_them_in_its_own_order_only(demo_model):
    trial = try_readings(demo_model, read_dataset(recording_path(), demo_model), "", 0)
    share = {t.reading.cell_order: t.gradient_share for t in trial.tried if t.reading.layout == "esp_lltf"}
    assert share["tone_frame"] < 1e-3
    assert share["frame_tone"] > 0.15


@pytest.mark.parametrize("rolled", [1, -2])
def test_rolled_tones_are_tried_where_no_plain_reading_fits(demo_model, rolled):
    rng = np.random.default_rng(0)
    amplitude = rng.uniform(10, 20, (200, 64)).astype(np.float32)
    amplitude[:, demo_model.model.table.null_mask] = 0
    windows = np.roll(amplitude, rolled, axis=1).reshape(10, 20, 64).transpose(0, 2, 1).copy()
    data = Dataset("w", Kind.WINDOWS, cells=windows, node_ids=np.zeros(10, np.int64))
    trial = try_readings(demo_model, data, "recording", 0)
    assert trial.best.reading.rolled == rolled
    assert trial.best.share_if_declared == 0


def test_of_many_windows_as_many_are_explained_as_tell_and_of_a_few_the_zeros_are_not_judged(count_v1, write):
    data = read_dataset(write("pretrain", hop=4), count_v1)
    assert len(data.cells) > MOST_WINDOWS
    assert len(try_readings(count_v1, data, "", 0).now.windows) == MOST_WINDOWS
    few = Dataset("few", Kind.WINDOWS, cells=data.cells[:7], node_ids=data.node_ids[:7])
    trial = try_readings(count_v1, few, "", 0)
    assert {tried.fits_zeros for tried in trial.tried} == {None}
    assert trial.best is None


def test_nothing_on_nothing_is_a_share_of_nothing():
    assert null_share(np.zeros((2, 4), np.float32), np.array([True, False, False, False])) == 0
    assert null_share(np.array([[1.0, -3.0]], np.float32), np.array([True, False])) == 0.25
