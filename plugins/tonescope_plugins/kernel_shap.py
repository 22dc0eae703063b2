"""KernelSHAP: Shapley values as constrained weighted least squares over coalitions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_plugins._coalitions import KernelPlan, kernel_plan
from tonescope_plugins._game import AnytimeMethod, Coalitions, Float64Array, Game, Step
from tonescope_plugins._least_squares import BatchedLeastSquares, Constraint, jackknife
from tonescope_plugins._players import PlayerParameters, player_count
from tonescope_server import plugin


class KernelShapParameters(PlayerParameters):
    """Parameters of KernelSHAP."""

    budget: int = Field(
        2048,
        ge=1,
        le=2**20,
        description="Coalitions that are evaluated for each window, its own value and the baseline's not counted; at "
        "least 4 times the players. With 2^players − 2 the result is exact.",
    )
    paired: bool = Field(True, description="Draw each coalition with its complement, which halves the error.")
    seed: plugin.Seed = 0


class KernelShap(AnytimeMethod):
    """The Shapley values that fit the values of coalitions best; they always add up to ``f(x) − f(baseline)``.

    That constraint is eliminated, not weighted, and no player is ever left out; the share of one all of whose cells
    hold the baseline is known to be zero, and is. Coalitions of one player and of all but one are enumerated (so no
    system is singular), and so are more sizes as the budget allows; the others are drawn by the kernel's weight, in
    pairs, in batches of which none depends on another. With all of them enumerated the result
    is exact, and has no standard error. Else the standard error of each tone is from leaving out each batch in turn;
    there is none until there are as many pairs as players. ``units`` holds the value of each player; a player's value
    is divided evenly among its cells. All windows are asked about the same coalitions. For fifty players and more,
    permutation_shapley is more accurate at the same budget.

    Source: Lundberg & Lee, "A Unified Approach to Interpreting Model Predictions" (2017), theorem 2; pairs as in Covert
    & Lee, "Improving KernelSHAP" (2021), section 4.2. Departures: the intervals are those of a jackknife over batches;
    there is no selection of players by the lasso.
    """

    name = "kernel_shap"
    summary = "Shapley values of tones, bands, frames or links, estimated by least squares, with intervals."
    source = "Lundberg & Lee 2017, arXiv:1705.07874; Covert & Lee 2021, arXiv:2012.01536"
    complete = True
    Parameters = KernelShapParameters

    def steps(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> Iterator[Step]:
        """Enumerate what is enumerated, and draw batch by batch."""
        game = Game(model, windows, parameters)
        plan = kernel_plan(game.players, parameters.budget, paired=parameters.paired)
        fit = _Fit(game, plan)
        for batch in range(len(plan.batches)):
            drawn = plan.draw(parameters.seed, batch)
            fit.squares.add(*fit.rows(drawn))
            yield partial(fit.estimate, batch + 1)
        if not plan.batches:
            yield partial(fit.estimate, 0)

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the coalitions, the window and the baseline."""
        players = player_count(windows, parameters)
        return int(min(parameters.budget, 2**players - 2)) + 2


class _Fit:
    """The least squares of one request: the last player's share is what the others leave."""

    def __init__(self, game: Game, plan: KernelPlan) -> None:
        self._game, self._plan = game, plan
        rows, values = self.rows(plan.enumerated)
        weighted = rows * plan.weights[:, None]
        self.squares = BatchedLeastSquares(weighted.T @ rows, weighted.T @ values.T, plan.share)
        self._constraints = [self._constraint(*pattern) for pattern in game.patterns()]

    def rows(self, coalitions: Coalitions) -> tuple[Float64Array, Float64Array]:
        """Return who takes part in each coalition, and what it is worth beyond the empty one."""
        return coalitions.astype(np.float64), self._game.value(coalitions) - self._game.empty[:, None]

    def estimate(self, batches: int) -> plugin.Estimate:
        """Return the estimate, and how far the batches disagree; exact where there are none."""
        error = None
        if self._plan.is_enough(batches):
            error = jackknife(self._game.tones_of(self.squares.without_each(self._constraints)))
        shares = self.squares.solution(self._constraints)
        return self._game.estimate(shares, standard_error=error, batches=batches or None)

    def _constraint(self, windows: npt.NDArray[np.int64], matter: npt.NDArray[np.int64]) -> Constraint:
        """Say that shares add up to the change of the target, and that players at the baseline have none."""
        last, others = (matter[-1], matter[:-1]) if matter.size else (0, matter)
        basis, offset = np.zeros((self._game.players, others.size)), np.zeros((self._game.players, windows.size))
        basis[others, np.arange(others.size)] = 1.0
        basis[last] = -1.0
        offset[last] = self._game.change[windows]
        return Constraint(windows, basis, offset)


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer KernelSHAP."""
    return [KernelShap()]
