"""LIME: against a weighted ridge regression written out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.games import write_game
from tonescope_server import plugin
from tonescope_server.errors import ParameterError

METHOD = "lime"


def windows(features=8, batch=3):
    return np.random.default_rng(5).standard_normal((batch, features)).astype(np.float32)


def drawn(players, budget, seed):
    """Return who takes part in each sample: sixteen batches, each of its own generator."""
    edges = [budget * run // 16 for run in range(17)]
    return np.concatenate(
        [plugin.generator(seed, "perturbed", run).random((edges[run + 1] - edges[run], players)) < 0.5
         for run in range(16)]
    )  # fmt: skip


def ridge(takes_part, values, width=0.25, alpha=1.0):
    """Return slopes, intercept and R² of one window; the first row is the window itself."""
    takes_part = np.vstack([np.ones(takes_part.shape[1]), takes_part])
    cosine = 1 - takes_part.sum(axis=1) / np.maximum(
        np.linalg.norm(takes_part, axis=1) * np.sqrt(takes_part.shape[1]), 1e-30
    )
    weights = np.sqrt(np.exp(-(cosine**2) / width**2))
    middle = np.average(takes_part, axis=0, weights=weights), np.average(values, weights=weights)
    z, y, root = takes_part - middle[0], values - middle[1], np.sqrt(weights)[:, None]
    stacked = np.vstack([z * root, np.sqrt(alpha) * np.eye(z.shape[1])])
    slopes = np.linalg.lstsq(stacked, np.append(y * root[:, 0], np.zeros(z.shape[1])), rcond=None)[0]
    left = weights @ (y - z @ slopes) ** 2
    return slopes, middle[1] - middle[0] @ slopes, 1 - left / (weights @ y**2)


@pytest.mark.parametrize("more", [{}, {"kernel_width": 0.5, "alpha": 10.0, "seed": 3}])
def test_it_is_a_weighted_ridge_regression_of_the_target_on_who_takes_part(oracles, more):
    oracle = oracles["mlp"]
    found = oracle.explainer.explain(oracle.x, METHOD, 1, budget=320, baseline="zero", **more)
    takes_part = drawn(12, 320, more.get("seed", 0))
    for row, x in enumerate(oracle.x.astype(np.float64)):
        values = oracle.element(1)(np.vstack([x[None], takes_part * x]))
        slopes, intercept, r_squared = ridge(takes_part, values, more.get("kernel_width", 0.25), more.get("alpha", 1.0))
        np.testing.assert_allclose(found.units[row], slopes, atol=1e-5)
        assert found.maps["intercept"][row] == pytest.approx(intercept, abs=1e-5)
        assert found.maps["r_squared"][row] == pytest.approx(r_squared, abs=1e-4)


def test_a_linear_model_is_found_with_little_penalty_and_fits_all_samples(tmp_path):
    x = windows()
    explainer = write_game(tmp_path, 8, {(i,): float(i - 3) for i in range(8)})
    found = explainer.explain(x, METHOD, alpha=1e-6)
    np.testing.assert_allclose(found.tones, x * (np.arange(8) - 3), atol=1e-4)
    np.testing.assert_allclose(found.maps["r_squared"], 1.0, atol=1e-5)
    np.testing.assert_allclose(found.maps["intercept"], 0.0, atol=1e-4)
    assert found.standard_error.max() < 1e-4


def test_a_target_that_never_changes_is_fitted_by_no_slope(tmp_path):
    x = windows()
    x[:, 0] = 0.0
    found = write_game(tmp_path, 8, {(0,): 1.0}).explain(x, METHOD)
    assert not found.tones.any()
    assert (found.maps["r_squared"] == 1.0).all()


def test_products_fit_worse_than_sums(tmp_path):
    x = np.abs(windows()) + 0.5
    found = write_game(tmp_path, 8, {(0, 1, 2, 3): 1.0}).explain(x, METHOD, budget=4096)
    assert (found.maps["r_squared"] < 0.7).all()
    assert (found.maps["r_squared"] > 0.1).all()


def test_groups_are_those_of_shapley_values(oracles):
    oracle = oracles["complex"]
    assert oracle.explainer.explain(oracle.x, METHOD, 1, players="link").units.shape == (5, 2)
    assert oracle.explainer.explain(oracle.x, METHOD, 1, players="frame").units.shape == (5, 4)


def test_estimates_narrow_and_say_by_how_much(oracles):
    oracle = oracles["mlp"]
    updates = list(oracle.explainer.explain_progressively(oracle.x[:1], METHOD, 1, budget=1600))
    assert [update.attribution.batches for update in updates[:3]] == [1, 2, 3]
    assert updates[0].attribution.standard_error is None
    several = [oracle.explainer.explain(oracle.x, METHOD, 1, seed=s) for s in range(60)]
    spread = np.std([each.tones for each in several], axis=0)
    told = np.sqrt(np.mean([each.standard_error**2 for each in several], axis=0))
    assert 0.8 < np.median(told / spread) < 1.25


def test_too_few_samples_are_refused(oracles):
    with pytest.raises(ParameterError, match="budget"):
        oracles["mlp"].explainer.explain(oracles["mlp"].x, METHOD, budget=31)
