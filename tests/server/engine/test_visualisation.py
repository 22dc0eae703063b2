"""Feature visualisation: it climbs, to where it should, in the same way each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.linear import write_linear
from tonescope_server import Explainer, Target
from tonescope_server.demo import store_path
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.engine.visualisation import penalty, penalty_gradient
from tonescope_server.errors import (
    MethodNotApplicableError,
    ParameterError,
    TargetError,
    UnknownTensorError,
)
from tonescope_server.testing import tiny_models

RANDOM = np.random.default_rng(13)
WEIGHTS = (0.01 * RANDOM.standard_normal((64, 6))).astype(np.float32)
PIXELS = (0.02 * RANDOM.standard_normal((1, 9, 8))).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("climbed")
    write_linear(root / "tones", WEIGHTS, '[window]\nframes = 6\n[tones]\nlayout = "esp_lltf"\n')
    write_linear(root / "image", PIXELS, "")
    return write_linear(root / "flat", np.ones(5, np.float32), '[input]\ncell_order = "feature"\n')


@pytest.fixture(scope="module")
def people() -> Explainer:
    return Explainer.load("people_count", store=store_path())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_of_a_linear_model_the_maximiser_points_along_the_weights(store: Path) -> None:
    """Of w·x − mean x² it is x = w · size / 2, where no tone is null; Adam at this rate is there to a per cent."""
    found = Explainer.load("tones", store=store).visualise(0, tv=0, l2=1, roll=0, steps=800, learning_rate=0.03)
    free = ~np.asarray(Explainer.load("tones", store=store).model.table.null_mask)
    for window in found.windows:
        np.testing.assert_allclose(window[free], WEIGHTS[free] * WEIGHTS.size / 2, atol=0.05)
        assert not window[~free].any()
    assert found.stability == pytest.approx(1, abs=1e-3)


def test_without_any_penalty_every_number_goes_the_way_of_its_weight(store: Path) -> None:
    """Adam moves each number alike: along the signs, whose cosine with normal weights is √(2/π) = 0.80."""
    found = Explainer.load("tones", store=store).visualise(0, tv=0, l2=0, roll=0)
    free = ~np.asarray(found.layout.table.null_mask)
    assert all(cosine(window[free], WEIGHTS[free]) > 0.7 for window in found.windows)


def test_of_a_linear_model_of_images_it_does_too(store: Path) -> None:
    found = Explainer.load("image", store=store).visualise(0, tv=0, l2=1, jitter=0, scaling=0, steps=1500)
    assert all(cosine(window, PIXELS) > 0.98 for window in found.windows)


def test_it_rises_above_the_start_and_above_random_inputs_of_the_same_norm(people: Explainer) -> None:
    found = people.visualise("one person", steps=64)
    assert (found.gain > 0).all()
    assert (found.gain_over_random > 3 * found.random_score.std(axis=1)).all()
    np.testing.assert_allclose(people.score(found.windows, "one person"), found.score, rtol=1e-5)
    assert not found.windows[:, people.model.table.null_mask].any()
    assert found.objective == "'one person'"
    assert found.history.shape == (3, 64)


def test_the_same_seed_climbs_the_same_way_whatever_else_climbs(people: Explainer) -> None:
    all_three = people.visualise(1, steps=16)
    again = people.visualise(1, steps=16)
    np.testing.assert_array_equal(all_three.windows, again.windows)
    last = people.visualise(1, steps=16, seeds=1, seed=2)
    np.testing.assert_allclose(last.windows[0], all_three.windows[2], rtol=1e-4, atol=1e-5)
    assert last.stability is None
    assert np.abs(all_three.windows[0] - all_three.windows[1]).max() > 0.1


def test_a_reference_and_its_penalties_change_where_it_ends(people: Explainer) -> None:
    mixing = np.diag(np.linspace(0.1, 2, 64))
    reference = (mixing @ RANDOM.standard_normal((50, 64, 20)) + 1).astype(np.float32)
    found = people.visualise(1, reference=reference, steps=32)
    assert found.parameters["is_whitened"]
    spread = (found.windows - found.windows.mean(axis=2, keepdims=True)).std(axis=(0, 2))
    assert spread[40:60].mean() > 2 * spread[1:20].mean()
    free, smooth = people.visualise(1, steps=64), people.visualise(1, steps=64, tv=20.0)
    changes = [np.abs(np.diff(each.windows, axis=2)).mean() for each in (free, smooth)]
    assert changes[1] < 0.8 * changes[0]


def test_the_gradient_of_the_penalties_is_that_of_central_differences() -> None:
    signals = RANDOM.standard_normal((2, 4, 5, 3))
    gradient = penalty_gradient(signals, (0, 1), 0.3, 0.7)
    for _ in range(20):
        at = tuple(int(RANDOM.integers(size)) for size in signals.shape)
        step = np.zeros_like(signals)
        step[at] = 1e-6
        rise = penalty(signals + step, (0, 1), 0.3, 0.7) - penalty(signals - step, (0, 1), 0.3, 0.7)
        assert gradient[at] == pytest.approx(rise[at[0]] / 2e-6, rel=1e-5, abs=1e-8)


def test_a_channel_and_a_unit_of_a_layer_are_what_the_layer_says_of_the_windows(people: Explainer) -> None:
    layer = next(each.name for each in people.layers() if len(each.shape) == 3)
    channel = people.visualise(layer=layer, channel=2, steps=16)
    values = people.activation(channel.windows, layer)
    np.testing.assert_allclose(channel.score, values[:, 2].mean(axis=1), rtol=1e-4)
    assert (channel.gain > 0).all()
    unit = people.visualise(layer=layer, unit=(2, 3), steps=4)
    np.testing.assert_allclose(unit.score, people.activation(unit.windows, layer)[:, 2, 3], rtol=1e-4)
    frame = people.visualise(layer=layer, channel=3, channel_axis=-1, steps=4)
    expected = people.activation(frame.windows, layer)[:, :, 3].mean(axis=1)
    np.testing.assert_allclose(frame.score, expected, rtol=1e-4, atol=1e-6)
    assert people.visualise(layer=layer, steps=2).objective == f"the mean of layer '{layer}'"


def test_every_tiny_model_is_climbed_or_refused_for_being_flat() -> None:
    climbed = 0
    for name, model in tiny_models().items():
        explainer = Explainer(model, installed_plugins())
        if model.cells.n_frames < 2:
            with pytest.raises(MethodNotApplicableError, match="got flat input"):
                explainer.visualise(Target.element(0))
            continue
        found = explainer.visualise(Target.element(0), steps=8, learning_rate=0.1, seeds=2)
        assert np.isfinite(found.windows).all(), name
        assert found.windows.shape == (2, *model.input.shape[1:])
        climbed += 1
    assert climbed > 3


def test_what_cannot_be_climbed_is_refused(people: Explainer, store: Path) -> None:
    layer = people.layers()[0].name
    asked = {
        "neither": (TargetError, {}),
        "got both": (TargetError, {"target": 0, "layer": layer}),
        "got the predicted class": (TargetError, {"target": Target.predicted()}),
        "has no channel 9999: expected 0 to": (UnknownTensorError, {"layer": layer, "channel": 9999}),
        "has no unit (9999,)": (UnknownTensorError, {"layer": layer, "unit": (9999,)}),
        "nonsense": (UnknownTensorError, {"layer": "nonsense"}),
        "a channel or a unit, got both": (ParameterError, {"layer": layer, "channel": 0, "unit": (0, 0)}),
        "channel_axis: expected": (ParameterError, {"layer": layer, "channel": 0, "channel_axis": 7}),
        "no parameter 'sstep'": (ParameterError, {"target": 0, "sstep": 3}),
        "steps: expected at least 1, got 0": (ParameterError, {"target": 0, "steps": 0}),
        "learning_rate: expected more than 0": (ParameterError, {"target": 0, "learning_rate": 0.0}),
    }
    for said, (error, arguments) in asked.items():
        with pytest.raises(error) as caught:
            people.visualise(**arguments)  # type: ignore[arg-type]
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(MethodNotApplicableError, match="got flat input"):
        Explainer.load("flat", store=store).visualise(0)


def test_a_visualisation_draws_its_windows_and_how_it_rose(people: Explainer, store: Path, tmp_path: Path) -> None:
    found = people.visualise(1, steps=8, seeds=5)
    figure = found.plot(tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 1000
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"seed {i}: {found.score[i]:.4g}" for i in range(4)]
    assert "1 more not drawn" in figure.texts[1].get_text()
    history = next(axes for axes in figure.axes if axes.get_xlabel() == "step")
    np.testing.assert_array_equal(history.lines[0].get_ydata(), found.history[0])
    image = Explainer.load("image", store=store).visualise(0, steps=4, seeds=1)
    image.plot().canvas.draw()
