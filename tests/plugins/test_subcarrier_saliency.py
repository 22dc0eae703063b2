"""The R5 statistic, against its definition: the loss, the whole tone shifted, times the tone's mean magnitude."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server import Target

# float32 against central differences in float64, relative to the largest value.
TOLERANCE = 1e-4


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


def loss_of(oracle, label):
    def loss(points):
        y = oracle.output(points)
        return -(y[:, label] - np.log(np.exp(y).sum(axis=1)))

    return loss


def by_definition(oracle, score, tone_of_cell):
    """Shift all the cells of a tone at once, as the original does."""
    x, step = oracle.x.astype(np.float64), 1e-5
    found = np.zeros((len(x), oracle.n_tones))
    for tone in range(oracle.n_tones):
        mask = (tone_of_cell == tone).reshape(x.shape[1:])
        slope = (score(x + step * mask) - score(x - step * mask)) / (2 * step)
        found[:, tone] = np.abs(slope) * np.abs(x[:, mask]).mean(axis=1)
    return found


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("name", ["conv_1d", "conv_2d", "scrambled"])
def test_the_statistic_is_that_of_shifting_each_tone(oracles, name, label):
    oracle = oracles[name]
    result = oracle.explainer.explain(oracle.x, "subcarrier_saliency", Target.negative_log_likelihood(label))
    close(result.tones, by_definition(oracle, loss_of(oracle, label), oracle.tone_of_cell))
    assert result.cells is None


def test_cells_written_frame_by_frame_are_summed_over_physical_tones(oracles):
    oracle = oracles["scrambled"]
    declared = np.repeat(np.arange(10), 5)  # what the shape (10, 5) would have one believe
    assert not np.array_equal(declared, oracle.tone_of_cell)
    got = oracle.explainer.explain(oracle.x, "subcarrier_saliency", Target.negative_log_likelihood(0)).tones
    wrong = by_definition(oracle, loss_of(oracle, 0), declared)
    assert np.abs(got - wrong).max() > 0.1 * np.abs(got).max()


def test_opposite_slopes_within_a_tone_cancel(oracles):
    """The sum comes before the absolute value: that tells this statistic from a folded saliency."""
    oracle = oracles["conv_1d"]
    gradient = oracle.gradient(oracle.element(0))
    got = oracle.explainer.explain(oracle.x, "subcarrier_saliency", 0).tones
    magnitude = np.abs(oracle.x).mean(axis=2)
    close(got, np.abs(gradient.sum(axis=2)) * magnitude)
    assert (np.abs(gradient).sum(axis=2) * magnitude > 1.5 * got).any()


def test_it_is_never_negative_and_grows_with_the_tone(oracles):
    oracle = oracles["mlp"]
    result = oracle.explainer.explain(oracle.x, "subcarrier_saliency")
    assert (result.tones >= 0).all()
    close(result.tones, np.abs(oracle.x * oracle.gradient(lambda points: oracle.output(points).mean(axis=1))))


def test_the_published_statistic_is_the_mean_over_windows(oracles):
    oracle = oracles["scrambled"]
    labels = oracle.output(oracle.x).argmax(axis=1)
    result = oracle.explainer.explain(oracle.x, "subcarrier_saliency", Target.negative_log_likelihood())
    each = [by_definition(oracle, loss_of(oracle, k), oracle.tone_of_cell) for k in range(3)]
    want = np.mean([each[k][i] for i, k in enumerate(labels)], axis=0)
    close(result.tones.mean(axis=0), want)
