"""Baselines by name: what array each comes to, in whatever order a window's cells are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonescope_server import Explainer, plugin
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import ParameterError
from tonescope_server.testing import tiny_models, tiny_windows

MODELS = sorted(tiny_models())
FRAMED = [name for name in MODELS if name != "mlp"]


def explainer_of(name, background=None, **baseline):
    """Return a tiny model whose manifest states more of its baseline than it does."""
    model = tiny_models()[name]
    section = model.manifest.baseline.filled(**baseline)
    return Explainer(
        replace(model, manifest=model.manifest.filled(baseline=section), background=background), installed_plugins()
    )


def windows_of(explainer, x):
    return explainer.prepare("integrated_gradients")._windows(x, slice(0, len(x)))


def baseline(explainer, x, **parameters):
    return plugin.BaselineParameters(**parameters).baseline_of(windows_of(explainer, x))


@pytest.mark.parametrize("name", MODELS)
def test_zero_and_the_manifests_are_what_they_are_called(name):
    explainer, x = explainer_of(name), tiny_windows(tiny_models()[name])
    assert not baseline(explainer, x, baseline="zero").any()
    stated = baseline(explainer, x, baseline="manifest")
    np.testing.assert_array_equal(stated, baseline(explainer, x))
    if name in ("conv_1d", "scrambled"):
        assert stated.any()


@pytest.mark.parametrize("which", ["dataset_mean", "empty_room"])
@pytest.mark.parametrize("name", FRAMED)
def test_a_mean_per_tone_is_held_over_all_cells_of_the_tone(name, which):
    model = tiny_models()[name]
    values = np.random.default_rng(0).standard_normal(model.cells.n_tones)
    explainer, x = explainer_of(name, **{which: tuple(values.tolist())}), tiny_windows(model)
    found = baseline(explainer, x, baseline=which)
    assert found.shape == (1, *x.shape[1:])
    want = [values[tone] for tone in model.cells.tone_of_cell]
    np.testing.assert_allclose(found.ravel(), want, rtol=1e-6)


def test_the_datasets_mean_is_that_of_the_background_unless_it_is_stated():
    background = tiny_windows(tiny_models()["scrambled"], 9, seed=4)
    x = tiny_windows(tiny_models()["scrambled"])
    found = baseline(explainer_of("scrambled", background), x, baseline="dataset_mean")
    np.testing.assert_allclose(found[0], background.astype(np.float64).mean(axis=0), rtol=1e-6, atol=1e-7)
    stated = explainer_of("scrambled", background, dataset_mean=(2.0,) * 10)
    assert (baseline(stated, x, baseline="dataset_mean") == 2.0).all()


@pytest.mark.parametrize("which", ["dataset_mean", "empty_room"])
def test_what_the_manifest_does_not_state_is_named_with_what_to_add(which):
    with pytest.raises(ParameterError, match=rf"'{which}': the manifest states none: add {which}, one value a tone"):
        baseline(explainer_of("scrambled"), tiny_windows(tiny_models()["scrambled"]), baseline=which)


# -- blurred ----------------------------------------------------------------------------------------------------


def series_of(model):
    """Return the flat cells of each tone, link and component, by frame."""
    cells, found = model.cells, {}
    keys = zip(cells.tone_of_cell, cells.link_of_cell, cells.component_of_cell, cells.frame_of_cell, strict=True)
    for flat, (tone, link, component, frame) in enumerate(keys):
        found.setdefault((tone, link, component), {})[int(frame)] = flat
    return [[by_frame[frame] for frame in sorted(by_frame)] for by_frame in found.values()]


@pytest.mark.parametrize("sigma", [0.7, 3.0])
@pytest.mark.parametrize("name", FRAMED)
def test_blurred_is_a_gaussian_average_over_time_of_each_tone_link_and_component(name, sigma):
    model = tiny_models()[name]
    x = tiny_windows(model)
    found = baseline(explainer_of(name), x, baseline="blurred", blur_frames=sigma).reshape(len(x), -1)
    for cells in series_of(model):
        for here, cell in enumerate(cells):
            weights = [np.exp(-((here - there) ** 2) / (2 * sigma**2)) for there in range(len(cells))]
            want = x.reshape(len(x), -1)[:, cells].astype(np.float64) @ weights / np.sum(weights)
            np.testing.assert_allclose(found[:, cell], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FRAMED)
def test_what_is_constant_in_time_is_not_blurred(name):
    model = tiny_models()[name]
    x = tiny_windows(model, 1).reshape(1, -1)
    for cells in series_of(model):
        x[:, cells] = x[:, cells[:1]]
    x = x.reshape(1, *model.input.shape[1:])
    np.testing.assert_allclose(baseline(explainer_of(name), x, baseline="blurred"), x, rtol=1e-6)


def test_a_wide_blur_leaves_the_mean_over_time_and_a_narrow_one_the_window():
    model = tiny_models()["conv_1d"]
    x = tiny_windows(model)
    wide = baseline(explainer_of("conv_1d"), x, baseline="blurred", blur_frames=1e4)
    np.testing.assert_allclose(wide, np.broadcast_to(x.mean(axis=2, keepdims=True), x.shape), atol=1e-5)
    np.testing.assert_allclose(baseline(explainer_of("conv_1d"), x, baseline="blurred", blur_frames=0.05), x)


def test_windows_without_frames_cannot_be_blurred():
    with pytest.raises(ParameterError, match="'blurred' needs windows of several frames, and these have one"):
        baseline(explainer_of("mlp"), tiny_windows(tiny_models()["mlp"]), baseline="blurred")


# -- random -----------------------------------------------------------------------------------------------------


def test_random_lies_between_the_windows_own_extremes_and_depends_on_no_other_window():
    explainer, x = explainer_of("scrambled"), tiny_windows(tiny_models()["scrambled"])
    found = baseline(explainer, x, baseline="random", baseline_seed=7)
    flat, drawn = x.reshape(5, -1), found.reshape(5, -1)
    assert (drawn >= flat.min(axis=1, keepdims=True)).all()
    assert (drawn <= flat.max(axis=1, keepdims=True)).all()
    spread = (drawn - flat.min(axis=1, keepdims=True)) / np.ptp(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(spread, np.broadcast_to(spread[:1], spread.shape), atol=1e-6)
    assert spread[0].std() == pytest.approx(1 / np.sqrt(12), rel=0.25)  # even over the range
    for row in range(5):
        alone = baseline(explainer, x[row : row + 1], baseline="random", baseline_seed=7)
        np.testing.assert_array_equal(alone[0], found[row])
    other = baseline(explainer, x, baseline="random", baseline_seed=8)
    assert np.abs(other - found).max() > 0.1


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift", "timing"])
@pytest.mark.parametrize("which", ["zero", "blurred", "random"])
def test_every_method_with_a_baseline_takes_them_by_name(method, which):
    explainer, x = explainer_of("scrambled"), tiny_windows(tiny_models()["scrambled"])
    by_name = explainer.explain(x, method, 1, baseline=which)
    as_array = explainer.explain(
        x, method, 1, baseline=np.broadcast_to(baseline(explainer, x, baseline=which), x.shape)
    )
    assert by_name.cells.tobytes() == as_array.cells.tobytes()
