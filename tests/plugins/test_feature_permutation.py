"""Feature permutation: against loops that permute one part at a time on the float64 model."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server import plugin
from tonescope_server.errors import ParameterError, ShapeError

METHOD = "feature_permutation"
TOLERANCE = 2e-6


def by_definition(oracle, parts, n, seed, background=None, index=1):
    """Return what each permutation of each part costs: (n, batch, parts)."""
    x, cells = oracle.x.astype(np.float64), oracle.model.cells
    score, found = oracle.element(index), np.zeros((n, len(x), len(parts)))
    for number in range(n):
        random = plugin.generator(seed, "permuted", number)
        if background is None:
            order = random.permutation(cells.n_frames)
            # The cell of the same tone, link and component in another frame.
            keys = list(zip(cells.tone_of_cell, cells.link_of_cell, cells.component_of_cell, strict=True))
            at = {(*key, frame): cell for cell, (key, frame) in enumerate(zip(keys, cells.frame_of_cell, strict=True))}
            source = [at[(*key, order[frame])] for key, frame in zip(keys, cells.frame_of_cell, strict=True)]
            other = x.reshape(len(x), -1)[:, source]
        else:
            other = np.broadcast_to(background[random.integers(len(background))], x.shape).reshape(len(x), -1)
        for part, mask in enumerate(parts):
            points = np.where(mask, other, x.reshape(len(x), -1)).reshape(x.shape)
            found[number, :, part] = score(x) - score(points)
    return found


def tones(oracle):
    return [oracle.tone_of_cell == tone for tone in range(oracle.n_tones)]


def agrees(oracle, found, losses, parts):
    scale = np.abs(oracle.output(oracle.x)).max()
    np.testing.assert_allclose(found.units, losses.mean(axis=0), atol=TOLERANCE * scale)
    cells = sum(losses.mean(axis=0)[:, [part]] * mask / mask.sum() for part, mask in enumerate(parts))
    np.testing.assert_allclose(found.cells.reshape(len(cells), -1), cells, atol=TOLERANCE * scale)
    assert np.abs(losses).max() > 1e-3 * scale


@pytest.mark.parametrize("name", ["scrambled", "conv_1d", "conv_2d", "complex"])
def test_a_tone_is_worth_what_the_target_loses_without_its_order(oracles, name):
    oracle = oracles[name]
    found = oracle.explainer.explain(oracle.x, METHOD, 1, n=3, seed=4)
    losses = by_definition(oracle, tones(oracle), 3, 4)
    agrees(oracle, found, losses, tones(oracle))
    error = losses.std(axis=0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found.standard_error, error, atol=1e-5)
    assert found.batches == 3


def test_links_are_permuted_as_a_whole(oracles):
    oracle = oracles["complex"]
    parts = [oracle.model.cells.link_of_cell == link for link in range(2)]
    found = oracle.explainer.explain(oracle.x, METHOD, 1, along="link", n=3)
    agrees(oracle, found, by_definition(oracle, parts, 3, 0), parts)


def test_values_may_come_from_a_background(oracles):
    oracle = oracles["mlp"]
    background = np.random.default_rng(2).standard_normal((4, 12)).astype(np.float32)
    found = oracle.explainer.explain(oracle.x, METHOD, 1, among="background", background=background, n=5)
    agrees(oracle, found, by_definition(oracle, tones(oracle), 5, 0, background), tones(oracle))


def test_a_window_that_stays_as_it_is_loses_exactly_nothing(oracles):
    oracle = oracles["conv_1d"]
    still = np.repeat(oracle.x[:, :, :1], 6, axis=2)
    found = oracle.explainer.explain(still, METHOD, 1)
    assert not found.units.any()
    assert not found.standard_error.any()


def test_bands_are_permuted_together(oracles):
    oracle = oracles["conv_1d"]
    single = oracle.explainer.explain(oracle.x, METHOD, 1)
    bands = oracle.explainer.explain(oracle.x, METHOD, 1, along="band", size=8)
    assert bands.units.shape[1] < single.units.shape[1] / 5


def test_windows_of_one_frame_get_their_values_from_the_background(oracles):
    explainer, x = oracles["mlp"].explainer, oracles["mlp"].x
    asked = explainer.explain(x, METHOD, among="background")
    assert explainer.explain(x, METHOD).cells.tobytes() == asked.cells.tobytes()
    with pytest.raises(ParameterError, match="'among': windows of one frame have no order to change"):
        explainer.explain(x, METHOD, among="frames")


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n": 1}, ParameterError, "'n'"),
        ({"size": 11}, ParameterError, "'size': expected at most 10, got 11"),
        ({"among": "background", "background": np.zeros((2, 3))}, ShapeError, "'background'"),
    ],
)
def test_what_cannot_be_permuted_is_refused(oracles, parameters, error, message):
    with pytest.raises(error, match=message):
        oracles["scrambled"].explainer.explain(oracles["scrambled"].x, METHOD, **parameters)
