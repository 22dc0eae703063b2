"""Exact Shapley values: against sums over all orders, on games whose values are known, and by their axioms."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from tests.games import shapley_of, write_game
from tonescope_server.errors import ParameterError, ShapeError

METHOD = "shapley_exact"
# Scores are float32: their rounding, relative to the largest.
TOLERANCE = 2e-6
GAME = {(0,): 1.5, (1, 2): -2.0, (2, 3, 4): 0.75, (5, 6): 1.0}  # feature 7 does nothing


def windows(features=8, batch=4):
    return np.random.default_rng(5).standard_normal((batch, features)).astype(np.float32)


def over_all_orders(oracle, owner, baseline, index=1):
    """Return what each player adds to those before it, averaged over every order, on the float64 model."""
    x = oracle.x.astype(np.float64)
    flat, empty = x.reshape(len(x), -1), np.broadcast_to(baseline, x.shape).reshape(len(x), -1)
    score, players = oracle.element(index), int(owner.max()) + 1
    shares, orders = np.zeros((len(x), players)), list(permutations(range(players)))
    known = {}
    for order in orders:
        for place, player in enumerate(order):
            before, after = frozenset(order[:place]), frozenset(order[: place + 1])
            for members in (before, after):
                if members not in known:
                    points = np.where(np.isin(owner, list(members)), flat, empty)
                    known[members] = score(points.reshape(x.shape))
            shares[:, player] += known[after] - known[before]
    return shares / len(orders)


def test_it_is_what_a_player_adds_averaged_over_every_order(oracles):
    oracle = oracles["conv_1d"]
    owner = oracle.model.cells.frame_of_cell
    found = oracle.explainer.explain(oracle.x, METHOD, 1, players="frame")
    exact = over_all_orders(oracle, owner, 0.25)
    np.testing.assert_allclose(found.units, exact, rtol=0, atol=TOLERANCE * np.abs(found.score).max())
    assert np.abs(exact).max() > 0.01


def test_products_are_shared_evenly_and_null_players_get_nothing(tmp_path):
    x = windows()
    found = write_game(tmp_path, 8, GAME).explain(x, METHOD, players="tone")
    np.testing.assert_allclose(found.units, shapley_of(GAME, x), atol=1e-6)
    assert np.abs(found.units[:, 7]).max() < 1e-12
    np.testing.assert_allclose(found.cells, found.units)
    assert np.abs(found.convergence_delta).max() < 1e-6


def test_on_a_linear_model_it_is_weight_times_distance_from_the_baseline(tmp_path):
    weights = {(i,): float(i - 3) for i in range(8)}
    x, baseline = windows(), np.linspace(-1, 1, 8).astype(np.float32)
    found = write_game(tmp_path, 8, weights).explain(x, METHOD, players="tone", baseline=baseline)
    np.testing.assert_allclose(found.units, (x - baseline) * (np.arange(8) - 3), atol=1e-5)


def test_players_that_do_the_same_get_the_same(tmp_path):
    x = windows()
    x[:, 4] = x[:, 3]
    found = write_game(tmp_path, 8, {(0, 3): 1.0, (0, 4): 1.0, (3, 4, 5): 2.0}).explain(x, METHOD, players="tone")
    np.testing.assert_allclose(found.units[:, 3], found.units[:, 4], atol=1e-6)


@pytest.mark.parametrize("name", ["conv_1d", "complex", "scrambled", "mlp", "conv_2d"])
def test_shares_add_up_to_the_change_of_the_target_whoever_the_players_are(oracles, name):
    oracle = oracles[name]
    for players in ("band", "frame", "link"):
        found = oracle.explainer.explain(oracle.x, METHOD, 1, players=players, baseline="zero")
        change = oracle.element(1)(oracle.x) - oracle.element(1)(np.zeros_like(oracle.x))
        bound = TOLERANCE * np.abs(oracle.output(oracle.x)).max() * 2
        np.testing.assert_allclose(found.units.sum(axis=1), change, atol=bound)
        np.testing.assert_allclose(found.tones.sum(axis=1), change, atol=5 * bound)


def test_a_player_shares_its_value_evenly_among_its_cells(oracles):
    oracle = oracles["complex"]
    found = oracle.explainer.explain(oracle.x, METHOD, 1, players="link")
    owner = oracle.model.cells.link_of_cell
    assert found.units.shape == (5, 2)
    np.testing.assert_allclose(found.cells.reshape(5, -1), found.units[:, owner] / 448, rtol=1e-6)


def test_bands_hold_neighbours_in_frequency_of_one_kind_and_are_at_most_ten_by_themselves(oracles):
    oracle = oracles["conv_1d"]
    found = oracle.explainer.explain(oracle.x, METHOD, 1)
    assert found.units.shape[1] <= 10
    four = oracle.explainer.explain(oracle.x, METHOD, 1, band_size=4).units.shape[1]
    groups = [len(group) for group in (np.flatnonzero(oracle.model.table.null_mask == null) for null in (True, False))]
    assert four == sum(-(-count // 4) for count in groups)


def test_a_map_of_rows_is_the_same_as_that_of_their_cells(oracles):
    oracle = oracles["conv_2d"]
    rows = np.arange(12) // 3
    cells = np.broadcast_to(rows, (1, 8, 12)).ravel()
    along = oracle.explainer.explain(oracle.x, METHOD, 1, players=rows, axis=3)
    each = oracle.explainer.explain(oracle.x, METHOD, 1, players=cells)
    assert along.units.shape == (5, 4)
    assert along.units.tobytes() == each.units.tobytes()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"players": "tone"}, ParameterError, r"parameter 'players': shapley_exact takes at most 16 players, got 56"),
        ({"players": [0, 1, 2]}, ShapeError, r"parameter 'players': expected a map of 336 cells, got 3 entries"),
        ({"players": [0, 1], "axis": 2}, ShapeError, r"expected a map of 6 rows along axis 2, got 2 entries"),
        ({"players": [0, 1, 0, 3, 1, 0], "axis": 2}, ParameterError, r"each with an entry, got \[0, 1, 3\]"),
        ({"players": [0, 1, 0, -1, 1, 0], "axis": 2}, ParameterError, r"counted from 0"),
        ({"players": [0, 1], "axis": 3}, ParameterError, r"parameter 'axis': expected an axis from 1 to 2, got 3"),
        ({"players": "antenna"}, ParameterError, r"parameter 'players'"),
        ({"players": []}, ShapeError, r"expected a map of 336 cells, got 0 entries"),
        ({"axis": 1}, ParameterError, r"parameter 'axis': expected it with an explicit map"),
        ({"players": "frame", "band_size": 2}, ParameterError, r"parameter 'band_size': expected it with"),
        ({"band_size": 57}, ParameterError, r"parameter 'band_size': expected at most \d+, got 57"),
    ],
)
def test_players_that_there_cannot_be_are_refused(oracles, parameters, error, message):
    oracle = oracles["conv_1d"]
    with pytest.raises(error, match=message) as caught:
        oracle.explainer.explain(oracle.x, METHOD, 1, **parameters)
    assert "\n" not in str(caught.value)


def test_seventeen_players_are_one_too_many_and_sixteen_are_not(tmp_path):
    explainer = write_game(tmp_path, 17, {(0, 1, 16): 1.0})
    x = windows(17, 1)
    with pytest.raises(ParameterError, match="at most 16 players, got 17"):
        explainer.explain(x, METHOD, players="tone")
    sixteen = explainer.explain(x, METHOD, players=[*range(16), 15])
    product = x[0, 0] * x[0, 1] * x[0, 16]
    np.testing.assert_allclose(sixteen.units[0, [0, 1, 15]], product / 3, rtol=1e-5)
    assert sixteen.evaluations == 2**16 + 1  # and the window once more, for the report


def test_all_sixteen_thousand_coalitions_of_fourteen_players_are_evaluated(tmp_path):
    explainer = write_game(tmp_path, 14, {(0,): 1.0, (12, 13): 1.0})
    assert explainer.explain(windows(14, 1), METHOD, players="tone").evaluations == 16_384 + 1
