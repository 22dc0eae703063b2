"""Expected gradients: a sample of integrated gradients from each of several baselines."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from tests.linear import write_linear
from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins
from tonescope_server.errors import ParameterError, ShapeError

METHOD = "expected_gradients"


def background_for(oracle, n=4, seed=9):
    return np.random.default_rng(seed).standard_normal((n, *oracle.x.shape[1:])).astype(np.float32)


@pytest.mark.parametrize("name", ["mlp", "scrambled", "complex"])
def test_it_is_the_mean_of_integrated_gradients_over_the_baselines_to_its_standard_error(oracles, name):
    oracle = oracles[name]
    background = background_for(oracle)
    found = oracle.explainer.explain(oracle.x, METHOD, 1, background=background, n=2000)
    exact = [oracle.explainer.explain(oracle.x, "integrated_gradients", 1, baseline=b) for b in background]
    off = np.abs(found.tones - np.mean([each.tones for each in exact], axis=0))
    # Errors are normal: none of a few hundred reaches five.
    assert (off <= 5 * found.standard_error).all()
    typical = np.sqrt(np.mean((off / found.standard_error) ** 2))
    assert 0.6 < typical < 1.4
    assert found.batches == 2000 - 4 + 1
    cells = np.mean([each.cells for each in exact], axis=0)
    np.testing.assert_allclose(found.cells, cells, rtol=0, atol=0.1 * np.abs(cells).max())


@pytest.mark.parametrize("n", [3, 4, 37, 200])
def test_the_delta_is_against_the_mean_score_of_the_baselines_that_were_used(oracles, n):
    """All are used, each as often as the others, where n is a multiple of them."""
    oracle = oracles["mlp"]
    background = background_for(oracle)
    found = oracle.explainer.explain(oracle.x, METHOD, 1, background=background, n=n)
    moved = found.cells.reshape(5, -1).sum(axis=1, dtype=np.float64) - found.convergence_delta
    scores = oracle.explainer.score(background, 1).astype(np.float64)
    mean = oracle.explainer.score(oracle.x, 1) - moved
    assert np.ptp(mean) < 1e-4 * np.abs(scores).max()  # the same set for every window
    if n % 4 == 0:
        np.testing.assert_allclose(mean, scores.mean(), rtol=1e-4, atol=1e-5)
    else:
        shares = [np.eye(4)[list(extra)].sum(axis=0) + n // 4 for extra in combinations(range(4), n % 4)]
        assert min(abs(float(mean[0]) - float(share @ scores) / n) for share in shares) < 1e-4


def test_of_a_linear_model_it_is_the_weights_times_the_distance_from_the_mean(tmp_path):
    weights = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float32)
    store = write_linear(tmp_path / "s" / "m", weights, '[input]\ncell_order = "tone_frame"\n')
    explainer = Explainer.load(store / "m")
    random = np.random.default_rng(3)
    x, background = (random.standard_normal((n, 6, 5)).astype(np.float32) for n in (3, 5))
    found = explainer.explain(x, METHOD, background=background, n=100)
    np.testing.assert_allclose(found.cells, weights * (x - background.mean(axis=0)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.convergence_delta, 0, atol=1e-4)


def test_without_a_set_it_is_the_manifests_or_its_baseline_alone(oracles):
    oracle = oracles["scrambled"]
    background = background_for(oracle, 7)
    stated = Explainer(replace(oracle.model, background=background), installed_plugins())
    given = oracle.explainer.explain(oracle.x, METHOD, 1, background=background)
    assert stated.explain(oracle.x, METHOD, 1).cells.tobytes() == given.cells.tobytes()
    alone = oracle.explainer.explain(oracle.x, METHOD, 1, n=1000)
    path = oracle.explainer.explain(oracle.x, "integrated_gradients", 1)
    assert (np.abs(alone.tones - path.tones) <= 5 * alone.standard_error + 1e-6).all()


def test_it_gets_better_run_by_run(oracles):
    oracle = oracles["mlp"]
    parameters = {"background": background_for(oracle).tolist(), "n": 300}
    prepared = oracle.explainer.prepare(METHOD, 1, parameters)
    steps = [found for found, _ in prepared.progress(oracle.x[:1])]
    assert len(steps) > 5
    counts = [step.batches for step in steps]
    assert counts == sorted(counts)
    assert counts[-1] == 300 - 4 + 1
    widths = [float(step.standard_error.mean()) for step in steps]
    assert widths[-1] < 0.6 * widths[0]
    last = oracle.explainer.explain(oracle.x[:1], METHOD, 1, **parameters)
    assert steps[-1].cells.tobytes() == last.cells.tobytes()
    assert steps[-1].convergence_delta.tobytes() == last.convergence_delta.tobytes()


@pytest.mark.parametrize("wrong", [np.zeros((10, 5)), np.zeros((0, 10, 5)), np.zeros((2, 5, 10)), 1.0])
def test_a_set_of_another_shape_is_refused(oracles, wrong):
    oracle = oracles["scrambled"]
    for method in (METHOD, "deep_shap"):
        with pytest.raises((ShapeError, ParameterError), match="'background'") as caught:
            oracle.explainer.explain(oracle.x, method, background=wrong)
        assert "\n" not in str(caught.value)
