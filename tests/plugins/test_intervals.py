"""The intervals of sampled methods hold the value that they are of as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

REPEATS = 400


def covered(oracle, method, truth=None, **parameters):
    """Return how often 95 % intervals hold the truth, over seeds and tones; by default that is the mean over seeds."""
    x = oracle.x[:1]
    found = [oracle.explainer.explain(x, method, 1, seed=seed, **parameters) for seed in range(REPEATS)]
    tones = np.stack([each.tones[0] for each in found]).astype(np.float64)
    width = student.ppf(0.975, found[0].batches - 1) * np.stack([each.standard_error[0] for each in found])
    # The mean over 400 seeds is off by a twentieth of a standard error, which costs a thousandth of the coverage.
    return float((np.abs(tones - (tones.mean(axis=0) if truth is None else truth)) <= width).mean())


@pytest.mark.parametrize("method", ["smoothgrad", "smoothgrad_squared"])
def test_ninety_five_per_cent_of_the_intervals_around_means_over_noise_hold_them(oracles, method):
    """4,800 intervals; squares are skewed, and 50 of them not quite normal in their mean."""
    assert 0.93 <= covered(oracles["mlp"], method) <= 0.97


@pytest.mark.parametrize("n", [50, 120])
def test_so_do_those_of_expected_gradients_whether_or_not_all_baselines_had_as_many_turns(oracles, n):
    oracle = oracles["mlp"]
    background = np.random.default_rng(9).standard_normal((4, 12)).astype(np.float32)
    exact = [oracle.explainer.explain(oracle.x[:1], "integrated_gradients", 1, baseline=b).tones[0] for b in background]
    share = covered(oracle, "expected_gradients", np.mean(exact, axis=0), background=background, n=n)
    assert 0.925 <= share <= 0.97


@pytest.mark.parametrize(("method", "parameters"), [("vargrad", {}), ("timing", {"n": 50, "segments": 3})])
def test_those_on_the_safe_side_hold_more(oracles, method, parameters):
    assert covered(oracles["mlp"], method, **parameters) >= 0.95


@pytest.mark.parametrize(
    ("method", "budget", "name", "players"),
    [
        ("kernel_shap", 300, "mlp", "tone"),
        ("kernel_shap", 100, "conv_1d", "band"),
        ("permutation_shapley", 1000, "mlp", "tone"),
    ],
)
def test_ninety_five_per_cent_of_those_of_shapley_values_hold_the_exact_value(
    oracles, capsys, method, budget, name, players
):
    """A thousand estimates; their tones are not independent of each other, and the share is known to about 0.4 %."""
    oracle = oracles[name]
    x = oracle.x[:1]
    exact = oracle.explainer.explain(x, "shapley_exact", 1, players=players).tones
    inside = []
    for seed in range(1000):
        found = oracle.explainer.explain(x, method, 1, players=players, budget=budget, seed=seed)
        width = student.ppf(0.975, found.batches - 1) * found.standard_error
        inside.append(np.abs(found.tones - exact) <= width)
    share = float(np.mean(inside))
    with capsys.disabled():
        print(f"\n{method} on {name}: 95 % intervals of 1000 estimates hold {share:.1%}", end="")
    assert 0.93 <= share <= 0.97


@pytest.mark.parametrize(("method", "parameters"), [("rise", {"n": 320}), ("feature_permutation", {"n": 24})])
def test_those_of_masks_and_permutations_hold_the_mean(oracles, method, parameters):
    assert 0.93 <= covered(oracles["scrambled"], method, **parameters) <= 0.97
