"""Permutation Shapley: orders and their reverses, against exact values."""

from __future__ import annotations

import numpy as np
import pytest

from tests.games import shapley_of, write_game
from tonescope_plugins._coalitions import permutations
from tonescope_server.errors import DeadlineError, ParameterError

METHOD = "permutation_shapley"
GAME = {(0,): 1.5, (1, 2): -2.0, (2, 3, 4): 0.75, (5, 6): 1.0, (4, 5, 6, 7): -0.5}


def windows(features=9, batch=3):
    return np.random.default_rng(5).standard_normal((batch, features)).astype(np.float32)


def by_orders(game, x, orders):
    """Walk through each order and its reverse, one player at a time, from a baseline of zero."""

    def value(members):
        return sum(c * x[:, list(m)].prod(axis=1) for m, c in game.items() if set(m) <= set(members))

    found = np.zeros(x.shape)
    for order in orders:
        for each in (order, order[::-1]):
            for place, player in enumerate(each):
                found[:, player] += value(each[: place + 1]) - value(each[:place])
    return found / (2 * len(orders))


def test_it_is_what_players_add_to_those_before_them_over_orders_and_their_reverses(tmp_path):
    x = windows()
    found = write_game(tmp_path, 9, GAME).explain(x, METHOD, budget=5 * 16, seed=3)
    # One step holds 16 pairs of orders; the first five are asked for.
    orders = permutations(9, 16, 3, 0)[:5].argsort(axis=1).tolist()
    np.testing.assert_allclose(found.tones, by_orders(GAME, x.astype(np.float64), orders), atol=1e-5)
    assert found.batches == 5
    assert found.evaluations == 5 * 16 + 2 + 1


def test_its_error_falls_with_the_budget_and_its_standard_error_says_so(tmp_path):
    x = windows()
    explainer = write_game(tmp_path, 9, GAME)
    exact = shapley_of(GAME, x)
    for budget in (160, 16_000):
        found = explainer.explain(x, METHOD, budget=budget)
        off = np.abs(found.tones - exact)
        assert (off <= 4.5 * found.standard_error + 1e-5).all()
    assert off.max() < 0.05


def test_every_budget_adds_up_and_null_players_get_nothing(tmp_path):
    x = windows()
    found = write_game(tmp_path, 9, GAME).explain(x, METHOD, budget=32)
    np.testing.assert_allclose(found.tones.sum(axis=1), found.score, atol=1e-5)
    assert np.abs(found.convergence_delta).max() < 1e-5
    assert np.abs(found.tones[:, 8]).max() < 1e-6
    assert np.abs(found.standard_error[:, 8]).max() < 1e-6


def test_what_has_pairs_only_is_exact_from_the_first_order_on(tmp_path):
    game = {(i, j): 1.0 + i - j for i in range(9) for j in range(i)}
    x = windows()
    found = write_game(tmp_path, 9, game).explain(x, METHOD, budget=32)
    np.testing.assert_allclose(found.tones, shapley_of(game, x), atol=1e-4)


@pytest.mark.parametrize("features", [1, 2])
def test_one_or_two_players_are_exact(tmp_path, features):
    game = {(0,): 2.0} if features == 1 else {(0,): 2.0, (0, 1): 3.0}
    x = windows(features)
    found = write_game(tmp_path, features, game).explain(x, METHOD)
    np.testing.assert_allclose(found.tones, shapley_of(game, x), atol=1e-5)
    assert found.standard_error.max() < 1e-5


def test_less_than_two_pairs_of_orders_are_refused(tmp_path):
    explainer = write_game(tmp_path, 9, GAME)
    with pytest.raises(
        ParameterError, match=r"'budget': expected at least 32 for 9 players, two pairs of orders; got 31"
    ):
        explainer.explain(windows(), METHOD, budget=31)


def test_estimates_follow_each_other_and_a_deadline_is_met_between_them(oracles):
    oracle = oracles["conv_1d"]
    updates = list(oracle.explainer.explain_progressively(oracle.x[:1], METHOD, 1, budget=1100))
    assert [update.attribution.batches for update in updates][:-1] == [2, 4, 6, 8, 10]
    answer = oracle.explainer.explain(oracle.x[:1], METHOD, 1, budget=1100)
    assert updates[-1].attribution.standard_error.tobytes() == answer.standard_error.tobytes()
    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise DeadlineError("late")

    with pytest.raises(DeadlineError):
        oracle.explainer.prepare(METHOD, None, {}).run(oracle.x, check)
    assert calls == 3


def test_antithetic_pairs_beat_as_many_orders_alone(tmp_path, capsys):
    """The reverse of an order cancels what depends on the place in it: compared with twice as many orders."""
    game = {**GAME, **{(i, j): 1.0 for i in range(9) for j in range(i)}}
    x = windows()
    exact = shapley_of(game, x)
    explainer = write_game(tmp_path, 9, game)
    paired = [np.linalg.norm(explainer.explain(x, METHOD, budget=160, seed=s).tones - exact) for s in range(20)]
    alone = []
    for seed in range(20):
        orders = permutations(9, 20, seed, 99).argsort(axis=1).tolist()
        alone.append(np.linalg.norm(one_way(game, x.astype(np.float64), orders) - exact))
    ratio = np.mean(paired) / np.mean(alone)
    with capsys.disabled():
        print(f"\npermutation_shapley: the error of reverses is {ratio:.2f} of that without", end="")
    assert ratio < 0.8


def one_way(game, x, orders):
    found = np.zeros(x.shape)
    for order in orders:
        place = np.argsort(order)
        for members, coefficient in game.items():
            last = max(members, key=lambda player: place[player])
            found[:, last] += coefficient * x[:, list(members)].prod(axis=1)
    return found / len(orders)
