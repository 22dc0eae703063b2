"""Shapley interactions: against their definition, and on games whose interactions are known."""

from __future__ import annotations

from itertools import combinations, pairwise
from math import factorial

import numpy as np
import pytest

from tests.games import interactions_of, shapley_of, write_game
from tonescope_plugins._coalitions import neighbours
from tonescope_server.errors import ParameterError

METHOD = "shapley_interaction"
GAME = {(0,): 1.5, (1, 2): -2.0, (2, 3, 4): 0.75, (5, 6): 1.0, (0, 3, 5, 6): -0.5}


def windows(features=8, batch=3):
    return np.random.default_rng(5).standard_normal((batch, features)).astype(np.float32)


def matrix_of(game, x):
    """Halves of the interactions, and on the diagonal what is left of the Shapley values."""
    found = interactions_of(game, x) / 2
    own = np.arange(x.shape[1])
    found[:, own, own] = shapley_of(game, x) - found.sum(axis=2)
    return found


def test_on_products_it_is_known(tmp_path):
    x = windows()
    found = write_game(tmp_path, 8, GAME).explain(x, METHOD, players="tone")
    np.testing.assert_allclose(found.maps["interactions"], matrix_of(GAME, x), atol=2e-6)
    np.testing.assert_allclose(found.units, shapley_of(GAME, x), atol=2e-6)
    assert found.standard_error is None


def test_it_is_grabisch_and_roubens_sum_over_coalitions(oracles):
    oracle = oracles["scrambled"]
    x, owner = oracle.x.astype(np.float64).reshape(5, -1), oracle.model.cells.frame_of_cell
    baseline = np.array(oracle.model.manifest.baseline.tones)[oracle.tone_of_cell]

    def value(members):
        return oracle.element(1)(np.where(np.isin(owner, list(members)), x, baseline).reshape(oracle.x.shape))

    found = oracle.explainer.explain(oracle.x, METHOD, 1, players="frame").maps["interactions"]
    for i, j in combinations(range(5), 2):
        others, index = [k for k in range(5) if k not in (i, j)], np.zeros(5)
        for size in range(4):
            weight = factorial(size) * factorial(3 - size) / factorial(4)
            for s in combinations(others, size):
                index += weight * (value({*s, i, j}) - value({*s, i}) - value({*s, j}) + value(s))
        np.testing.assert_allclose(found[:, i, j], index / 2, atol=2e-6)


@pytest.mark.parametrize("name", ["conv_1d", "complex", "mlp"])
def test_rows_add_up_to_the_shapley_values_and_all_to_the_change_of_the_target(oracles, name):
    oracle = oracles[name]
    found = oracle.explainer.explain(oracle.x, METHOD, 1)
    matrix = found.maps["interactions"]
    exact = oracle.explainer.explain(oracle.x, "shapley_exact", 1)
    np.testing.assert_allclose(found.units, exact.units, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(axis=2), exact.units, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.swapaxes(1, 2), atol=1e-7)


@pytest.mark.parametrize("features", [17, 18])
def test_above_sixteen_players_pairs_are_exact_at_once_where_there_are_pairs_only(tmp_path, features):
    game = {(i, j): 1.0 + i - j for i in range(features) for j in range(i)}
    x = windows(features, 2)
    found = write_game(tmp_path, features, game).explain(x, METHOD, players="tone", budget=1200)
    got = found.maps["interactions"]
    own = np.arange(features)
    want = matrix_of(game, x)
    got[:, own, own] = want[:, own, own] = 0.0
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("features", [17, 18])
def test_above_sixteen_players_it_comes_as_close_as_it_is_given_rounds(tmp_path, features):
    game = {**GAME, (9, 11, 16): 2.0}
    x = windows(features, 2)
    explainer = write_game(tmp_path, features, game)
    want, values = matrix_of(game, x), shapley_of(game, x)
    off = []
    for budget in (2_000, 128_000):
        found = explainer.explain(x, METHOD, players="tone", budget=budget)
        off.append(np.abs(found.maps["interactions"] - want).max())
        assert (np.abs(found.units - values) <= 5 * found.standard_error + 1e-5).all()
        np.testing.assert_allclose(found.units.sum(axis=1), found.score, atol=1e-5)
    assert off[1] < 0.25 * off[0]  # an eighth is expected: 64 times the rounds
    assert found.batches == 128_000 // (2 * (features - 1) * (17 if features % 2 else 9))


@pytest.mark.parametrize("players", range(2, 14))
def test_all_pairs_are_neighbours_equally_often(players):
    times = np.zeros((players, players), int)
    for order in neighbours(players):
        assert sorted(order) == list(range(players))
        for one, next_one in pairwise(order):
            times[one, next_one] += 1
    pairs = (times + times.T)[np.triu_indices(players, 1)]
    assert set(pairs) == {2 if players % 2 else 1}


def test_less_than_two_rounds_are_refused(tmp_path):
    explainer = write_game(tmp_path, 18, {(0, 17): 1.0})
    with pytest.raises(ParameterError, match=r"'budget': expected at least 612 for 18 players, two rounds; got 611"):
        explainer.explain(windows(18), METHOD, players="tone", budget=611)
