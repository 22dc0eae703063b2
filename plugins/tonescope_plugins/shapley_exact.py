"""Exact Shapley values, by enumeration of all coalitions."""

from __future__ import annotations

from typing import Any

from tonescope_plugins._coalitions import check_enumerable, every_coalition
from tonescope_plugins._enumeration import shapley_values
from tonescope_plugins._game import Game
from tonescope_plugins._players import PlayerParameters, Players, player_count
from tonescope_server import plugin


class ShapleyExactParameters(PlayerParameters):
    """Parameters of exact Shapley values."""

    players: Players = "band"


class ShapleyExact(plugin.ProceduralMethod):
    """What each player adds to the target, averaged over all orders in which players may come; up to 16 players.

    ``units`` holds the value of each player; a player's value is divided evenly among its cells.

    Source: Shapley, "A Value for n-Person Games" (1953); players that do not take part hold the baseline, as in
    Sundararajan & Najmi, "The many Shapley values for model explanation" (2020), section 3.
    """

    name = "shapley_exact"
    summary = "Shapley values of up to 16 groups of cells (bands, frames, links), without sampling."
    source = "Shapley 1953, doi:10.1515/9781400881970-018"
    complete = True
    Parameters = ShapleyExactParameters

    def attribute(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Evaluate every coalition, and weigh."""
        game = Game(model, windows, parameters)
        check_enumerable(game.players, self.name)
        return game.estimate(shapley_values(game.every_value(every_coalition(game.players)), game.players))

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the coalitions."""
        return int(2 ** player_count(windows, parameters))


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer exact Shapley values."""
    return [ShapleyExact()]
