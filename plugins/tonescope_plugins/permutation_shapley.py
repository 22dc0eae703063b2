"""Shapley values from random orders of the players, each with its reverse."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_plugins._coalitions import permutations
from tonescope_plugins._game import AnytimeMethod, Float64Array, Game, Step
from tonescope_plugins._masking import POINTS
from tonescope_plugins._players import PlayerParameters, player_count
from tonescope_server import plugin
from tonescope_server.errors import ParameterError


class PermutationShapleyParameters(PlayerParameters):
    """Parameters of permutation Shapley."""

    budget: int = Field(
        1024,
        ge=1,
        le=2**20,
        description="Coalitions that are evaluated for each window, its own value and the baseline's not counted; at "
        "least 4 times one less than the players: two orders and their reverses.",
    )
    seed: plugin.Seed = 0


class PermutationShapley(AnytimeMethod):
    """What each player adds to those before it, averaged over random orders and their reverses.

    Every order adds up to ``f(x) − f(baseline)``, and every pair of orders is an independent and unbiased estimate, so
    that intervals hold for small budgets. ``batches`` counts the pairs. All windows are asked about the same orders.

    Source: Castro, Gómez & Tejada, "Polynomial calculation of the Shapley value based on sampling" (2009); reverses as
    in Mitchell et al., "Sampling Permutations for Shapley Value Estimation" (2022), section 4.1.
    """

    name = "permutation_shapley"
    summary = "Shapley values of tones, bands, frames or links, from random orders and their reverses, with intervals."
    source = "Castro et al. 2009, doi:10.1016/j.cor.2008.04.004; Mitchell et al. 2022, arXiv:2104.12199"
    complete = True
    Parameters = PermutationShapleyParameters

    def steps(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> Iterator[Step]:
        """Evaluate some pairs of orders at a time."""
        game = Game(model, windows, parameters)
        cost, pairs = _pairs(game.players, parameters.budget)
        drawn = _Sums(game)
        at_once = max(POINTS // max(cost, 1), 1)
        for number, start in enumerate(range(0, pairs, at_once)):
            places = permutations(game.players, at_once, parameters.seed, number)[: pairs - start]
            drawn.add(_contributions(game, places))
            yield partial(drawn.estimate)

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the coalitions, the window and the baseline."""
        cost, pairs = _pairs(player_count(windows, parameters), parameters.budget)
        return cost * pairs + 2


def _pairs(players: int, budget: int) -> tuple[int, int]:
    """Return what a pair of orders costs, and how many there are."""
    cost = 2 * (players - 1)
    if budget < 2 * cost:
        raise ParameterError(
            f"parameter 'budget': expected at least {2 * cost} for {players} players, two pairs of orders; got {budget}"
        )
    return cost, budget // cost if cost else 2


def _contributions(game: Game, places: npt.NDArray[np.int64]) -> Float64Array:
    """Return what each player adds, over an order and its reverse: ``(pairs, batch, players)``."""
    pairs, players = places.shape
    ahead = places[:, None, :] < np.arange(1, players)[None, :, None]
    coalitions = np.concatenate([ahead, ~ahead]).reshape(-1, players)
    values = game.value(coalitions).reshape(len(game.full), 2, pairs, players - 1).transpose(1, 2, 0, 3)
    empty, full = (np.broadcast_to(end[None, :, None], (pairs, len(end), 1)) for end in (game.empty, game.full))
    forth = np.diff(np.concatenate([empty, values[0], full], axis=2), axis=2)
    back = -np.diff(np.concatenate([full, values[1], empty], axis=2), axis=2)
    found: Float64Array = np.take_along_axis((forth + back) / 2, places[:, None, :], axis=2)
    return found


class _Sums:
    """Sums over the pairs of orders so far; squares are of differences from the first pair."""

    def __init__(self, game: Game) -> None:
        self._game = game
        self._count = 0
        self._shares: Float64Array = np.zeros((len(game.full), game.players))
        self._origin: Float64Array | None = None
        self._sums = self._squares = np.zeros(())

    def add(self, contributions: Float64Array) -> None:
        """Add pairs, ``(pairs, batch, players)``."""
        self._count += len(contributions)
        self._shares = self._shares + contributions.sum(axis=0)
        tones = self._game.tones_of(contributions)
        self._origin = tones[0] if self._origin is None else self._origin
        off = tones - self._origin
        self._sums, self._squares = self._sums + off.sum(axis=0), self._squares + (off**2).sum(axis=0)

    def estimate(self) -> plugin.Estimate:
        """Return the mean over the pairs, and its standard error."""
        error = plugin.standard_error(self._sums, self._squares, self._count)
        shares = self._shares / self._count
        return self._game.estimate(
            shares, standard_error=None if error is None else error.astype(np.float64), batches=self._count
        )


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer permutation Shapley."""
    return [PermutationShapley()]
