"""Shapley interactions: what two players are worth together beyond what each is worth alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_plugins._coalitions import MOST_ENUMERATED, every_coalition, neighbours, permutations
from tonescope_plugins._enumeration import interactions, shapley_values
from tonescope_plugins._game import AnytimeMethod, Float64Array, Game, Step
from tonescope_plugins._least_squares import jackknife
from tonescope_plugins._players import PlayerParameters, Players, player_count
from tonescope_server import plugin
from tonescope_server.errors import ParameterError


class ShapleyInteractionParameters(PlayerParameters):
    """Parameters of Shapley interactions."""

    players: Players = "band"
    budget: int = Field(
        8192,
        ge=1,
        le=2**20,
        description="With more than 16 players: coalitions that are evaluated for each window, at least two rounds of "
        "about the square of the number of players. Up to 16 players all coalitions are.",
    )
    seed: plugin.Seed = 0


class ShapleyInteraction(AnytimeMethod):
    """The Shapley interaction index of each pair of players, and their Shapley values.

    ``maps["interactions"]`` is ``(batch, players, players)``: half the index of a pair at both of its places, and on
    the diagonal what is left of a player's Shapley value: rows add up to the Shapley values, which are ``units``, and
    all of it to ``f(x) − f(baseline)``. Exact up to 16 players. Above, in rounds of random orders of the players, in
    each of which all pairs are neighbours once (twice, where their number is odd): what a pair is worth beyond its
    members is asked where they are neighbours, given those before them. Rounds are independent: ``batches`` counts
    them, and the standard error is over them.

    Source: Grabisch & Roubens, "An axiomatic approach to the concept of interaction among players" (1999); halves and
    main effects as in Lundberg, Erion & Lee (2018), section 4. Departure: the design of orders above 16 players.
    """

    name = "shapley_interaction"
    summary = "What pairs of bands (tones, frames, links) are worth beyond what each of them is worth alone."
    source = "Grabisch & Roubens 1999, doi:10.1007/s001820050125; Lundberg et al. 2018, arXiv:1802.03888"
    complete = True
    Parameters = ShapleyInteractionParameters

    def steps(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> Iterator[Step]:
        """Enumerate, or evaluate round by round."""
        game = Game(model, windows, parameters)
        players = game.players
        if players <= MOST_ENUMERATED:
            values = game.every_value(every_coalition(players))
            shares, pairs = shapley_values(values, players), interactions(values, players)
            yield partial(_estimate, game, shares, pairs)
            return
        found: list[tuple[Float64Array, Float64Array]] = []
        for number in range(_rounds(players, parameters.budget)):
            found.append(_round(game, permutations(players, 1, parameters.seed, number)[0]))
            yield partial(_sampled, game, tuple(found))

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the coalitions, the window and the baseline."""
        players = player_count(windows, parameters)
        if players <= MOST_ENUMERATED:
            return int(2**players)
        return _rounds(players, parameters.budget) * _round_cost(players) + 2


def _round_cost(players: int) -> int:
    return (players if players % 2 else players // 2) * 2 * (players - 1)


def _rounds(players: int, budget: int) -> int:
    cost = _round_cost(players)
    if budget < 2 * cost:
        raise ParameterError(
            f"parameter 'budget': expected at least {2 * cost} for {players} players, two rounds; got {budget}"
        )
    return budget // cost


def _round(game: Game, names: npt.NDArray[np.int64]) -> tuple[Float64Array, Float64Array]:
    """Return Shapley values and interactions from one round: ``(batch, players)`` and ``(batch, players, players)``."""
    orders = names[np.array(list(neighbours(game.players)))]
    count, players = orders.shape
    places = orders.argsort(axis=1)
    # The first k of an order; and the same with its last member replaced by the one who comes next.
    first = places[:, None, :] < np.arange(1, players)[None, :, None]
    swapped = first.copy()
    path, step = np.indices((count, players - 1))
    swapped[path, step, orders[:, :-1]] = False
    swapped[path, step, orders[:, 1:]] = True
    values = game.value(np.concatenate([first, swapped]).reshape(-1, players))
    batch = len(values)
    straight, other = values.reshape(batch, 2, count, players - 1).transpose(1, 0, 2, 3)
    ends = [np.broadcast_to(end[:, None, None], (batch, count, 1)) for end in (game.empty, game.full)]
    chain = np.concatenate([ends[0], straight, ends[1]], axis=2)
    shares, pairs = np.zeros((players, batch)), np.zeros((players, players, batch))
    np.add.at(shares, orders, np.moveaxis(np.diff(chain, axis=2), 0, 2))
    beyond = chain[:, :, 2:] - chain[:, :, 1:-1] - other + chain[:, :, :-2]
    np.add.at(pairs, (orders[:, :-1], orders[:, 1:]), np.moveaxis(beyond, 0, 2))
    times = 2 if players % 2 else 1
    return shares.T / count, np.moveaxis(pairs + pairs.swapaxes(0, 1), 2, 0) / times


def _sampled(game: Game, rounds: tuple[tuple[Float64Array, Float64Array], ...]) -> plugin.Estimate:
    """Return the mean over rounds; leaving each out in turn gives the standard error of a mean."""
    shares = np.stack([each for each, _ in rounds])
    without = (shares.sum(axis=0) - shares) / max(len(rounds) - 1, 1)
    pairs = np.mean([each for _, each in rounds], axis=0)
    error = jackknife(game.tones_of(without))
    return _estimate(game, shares.mean(axis=0), pairs, standard_error=error, batches=len(rounds))


def _estimate(game: Game, shares: Float64Array, pairs: Float64Array, **sampled: Any) -> plugin.Estimate:
    matrix = pairs / 2
    own = np.arange(game.players)
    matrix[:, own, own] = shares - matrix.sum(axis=2)
    return game.estimate(shares, maps={"interactions": matrix}, **sampled)


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer Shapley interactions."""
    return [ShapleyInteraction()]
