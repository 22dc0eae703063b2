"""DeepSHAP: the mean of DeepLIFT over references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonescope_server import Explainer
from tonescope_server.engine.explainer import installed_plugins

METHOD = "deep_shap"
# Sums of float32 in another order.
ROUNDING = 1e-5


def close(got, want, tolerance=ROUNDING):
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def references_for(oracle, n=6, seed=9):
    return np.random.default_rng(seed).standard_normal((n, *oracle.x.shape[1:])).astype(np.float32)


def test_with_one_reference_it_is_deep_lift(oracle):
    reference = references_for(oracle, 1)
    found = oracle.explainer.explain(oracle.x, METHOD, 1, background=reference)
    want = oracle.explainer.explain(oracle.x, "deep_lift", 1, baseline=reference)
    for name in ("cells", "tones", "convergence_delta"):
        assert getattr(found, name).tobytes() == getattr(want, name).tobytes()
    assert found.standard_error is None
    assert found.batches is None  # it is exact
    assert found.rule_set == "deep_lift"


def test_it_is_the_mean_over_references_with_its_standard_error(oracle):
    references = references_for(oracle)
    found = oracle.explainer.explain(oracle.x, METHOD, 1, background=references)
    each = [oracle.explainer.explain(oracle.x, "deep_lift", 1, baseline=r) for r in references]
    close(found.cells, np.mean([one.cells for one in each], axis=0))
    tones = np.stack([one.tones for one in each]).astype(np.float64)
    close(found.tones, tones.mean(axis=0))
    close(found.standard_error, tones.std(axis=0, ddof=1) / np.sqrt(len(references)), 1e-3)
    assert found.batches == len(references)


def test_it_is_complete_against_the_mean_score_of_the_references(oracle):
    references = references_for(oracle)
    found = oracle.explainer.explain(oracle.x, METHOD, 1, background=references)
    change = oracle.output(oracle.x)[:, 1] - oracle.output(references)[:, 1].mean()
    size = np.abs(oracle.output(oracle.x)).max() + np.abs(oracle.output(references)).max()
    np.testing.assert_allclose(found.cells.reshape(5, -1).sum(axis=1, dtype=np.float64), change, atol=2e-5 * size)
    np.testing.assert_allclose(found.convergence_delta, 0, atol=2e-5 * size)


def test_without_references_it_takes_the_manifests(oracles):
    oracle = oracles["conv_1d"]
    references = references_for(oracle)
    stated = Explainer(replace(oracle.model, background=references), installed_plugins())
    want = oracle.explainer.explain(oracle.x, METHOD, 1, background=references)
    assert stated.explain(oracle.x, METHOD, 1).cells.tobytes() == want.cells.tobytes()


def test_it_gets_better_reference_by_reference(oracles):
    oracle = oracles["scrambled"]
    references = references_for(oracle)
    prepared = oracle.explainer.prepare(METHOD, 1, {"background": references.tolist()})
    steps = [found for found, _ in prepared.progress(oracle.x[:1])]
    assert [step.batches for step in steps] == [1, 2, 3, 4, 5, 6]
    for n, step in enumerate(steps[:-1], start=1):
        part = oracle.explainer.explain(oracle.x[:1], METHOD, 1, background=references[:n])
        close(step.cells, part.cells)
    assert np.abs(steps[0].convergence_delta).max() < 1e-5  # complete from the first on


@pytest.mark.parametrize("count", [1, 40])
def test_long_batches_are_answered_like_short_ones(oracles, count):
    oracle = oracles["mlp"]
    x = np.random.default_rng(3).standard_normal((300, 12)).astype(np.float32)
    references = references_for(oracle, 3)
    whole = oracle.explainer.explain(x, METHOD, 1, background=references)
    part = oracle.explainer.explain(x[200 : 200 + count], METHOD, 1, background=references)
    close(whole.cells[200 : 200 + count], part.cells)
