"""RISE: masks by their definition, and sums over them written out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.games import write_game
from tests.linear import write_linear
from tonescope_server import Explainer, plugin
from tonescope_server.errors import ParameterError

METHOD = "rise"


def place_of_tone(oracle):
    """Return each tone's place: live ones by subcarrier index, then null ones (each model here has one field)."""
    tones = list(oracle.model.table.tones)
    tones.sort(key=lambda t: (t.kind == "null", t.row if t.subcarrier_index is None else t.subcarrier_index))
    place = np.empty(len(tones), int)
    place[[tone.row for tone in tones]] = np.arange(len(tones))
    return place


def masks_of(oracle, n, grid, visible, seed):
    """Draw as the method does, and interpolate cell by cell."""
    tones, frames = oracle.n_tones, oracle.model.cells.n_frames
    grid = min(grid[0], tones), min(grid[1], frames)
    place, found = place_of_tone(oracle), []
    edges = [n * run // 16 for run in range(17)]
    for run in range(16):
        random, count = plugin.generator(seed, "masks", run), edges[run + 1] - edges[run]
        coarse = random.random((count, grid[0] + 1, grid[1] + 1)) < visible
        shifts = random.random(count), random.random(count)
        for k in range(count):
            mask = np.empty(oracle.tone_of_cell.size)
            for cell, (tone, frame) in enumerate(
                zip(oracle.tone_of_cell, oracle.model.cells.frame_of_cell, strict=True)
            ):
                a = min(place[tone] / tones * grid[0] + shifts[0][k], grid[0])
                b = min(frame / frames * grid[1] + shifts[1][k], grid[1])
                i, j = min(int(a), grid[0] - 1), min(int(b), grid[1] - 1)
                u, v, c = a - i, b - j, coarse[k].astype(float)
                mask[cell] = (
                    c[i, j] * (1 - u) * (1 - v)
                    + c[i + 1, j] * u * (1 - v)
                    + c[i, j + 1] * (1 - u) * v
                    + c[i + 1, j + 1] * u * v
                )
            found.append(mask)
    return np.array(found)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("name", ["scrambled", "conv_1d", "mlp"])
def test_it_is_the_sum_of_masks_weighted_by_the_target_behind_each(oracles, name, centred):
    oracle = oracles[name]
    n, visible = 64, 0.4
    masks = masks_of(oracle, n, (4, 3), visible, 7)
    found = oracle.explainer.explain(
        oracle.x, METHOD, 1, n=n, grid_tones=4, grid_frames=3, visible=visible, seed=7, centred=centred, baseline="zero"
    )
    x = oracle.x.astype(np.float64).reshape(5, -1)
    for row in range(5):
        scores = oracle.element(1)((masks * x[row]).reshape(n, *oracle.x.shape[1:]))
        cells = (scores - scores.mean()) @ masks / (n - 1) if centred else scores @ masks / n
        cells = cells / visible
        np.testing.assert_allclose(found.cells[row].ravel(), cells, atol=2e-6 * np.abs(scores).max() / visible)


def test_masks_lie_between_hidden_and_shown_and_average_to_how_often_cells_are_shown(oracles):
    masks = masks_of(oracles["scrambled"], 2000, (5, 3), 0.3, 1)
    assert masks.min() == 0.0
    assert masks.max() == pytest.approx(1.0)
    np.testing.assert_allclose(masks.mean(axis=0), 0.3, atol=0.06)


def test_what_matters_stands_out_from_what_does_not(tmp_path):
    """One tone of sixteen, in two of twelve frames."""
    weights = np.zeros((16, 12), np.float32)
    weights[5, 6:8] = 1.0
    manifest = 'input = { cell_order = "tone_frame" }\ntones = { layout = "unknown_16" }\nwindow = { frames = 12 }\n'
    explainer = Explainer.load("game/1", store=write_linear(tmp_path / "game" / "1", weights, manifest).parent)
    x = np.ones((1, 16, 12), np.float32)
    found = explainer.explain(x, METHOD, grid_tones=16, grid_frames=6, n=4096)
    assert found.tones.argmax() == 5
    assert np.unravel_index(found.cells[0].argmax(), (16, 12))[1] in (5, 6, 7, 8)
    far = np.abs(found.tones[0, 8:])
    assert (far < 5 * found.standard_error[0, 8:]).all()
    assert found.tones[0, 5] > 20 * found.standard_error[0, 5]


def test_without_the_mean_a_constant_target_gives_every_cell_the_same_and_with_it_nothing(tmp_path):
    explainer = write_game(tmp_path, 8, {(0,): 1.0})
    x = np.zeros((1, 8), np.float32)
    x[0, 0] = 5.0
    plain = explainer.explain(x, METHOD, centred=False, baseline=np.full(8, 5.0))
    assert plain.tones.min() > 4.0
    centred = explainer.explain(x, METHOD, baseline=np.where(np.arange(8) == 0, 5.0, 0.0))
    assert np.abs(centred.tones).max() < 1e-6


def test_estimates_narrow_and_the_last_is_the_answer(oracles):
    oracle = oracles["scrambled"]
    updates = list(oracle.explainer.explain_progressively(oracle.x[:1], METHOD, 1, n=1600))
    errors = [u.attribution.standard_error for u in updates if u.attribution.standard_error is not None]
    assert np.linalg.norm(errors[-1]) < np.linalg.norm(errors[3])
    answer = oracle.explainer.explain(oracle.x[:1], METHOD, 1, n=1600)
    assert updates[-1].attribution.tones.tobytes() == answer.tones.tobytes()


@pytest.mark.parametrize("parameters", [{"n": 31}, {"visible": 0.0}, {"visible": 1.0}, {"grid_tones": 0}])
def test_masks_that_cannot_be_are_refused(oracles, parameters):
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        oracles["mlp"].explainer.explain(oracles["mlp"].x, METHOD, **parameters)
