"""LIME: a linear model of the target around the window, over groups of cells that are there or not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tonescope_plugins._coalitions import BATCHES
from tonescope_plugins._game import AnytimeMethod, Coalitions, Float64Array, Game, Step
from tonescope_plugins._least_squares import BatchedLeastSquares, Constraint, jackknife
from tonescope_plugins._players import PlayerParameters
from tonescope_server import plugin


class LimeParameters(PlayerParameters):
    """Parameters of LIME."""

    budget: int = Field(
        1024, ge=32, le=2**20, description="Perturbed windows that are evaluated for each window, beside itself."
    )
    kernel_width: float = Field(0.25, gt=0, le=100, description="Width of the kernel, in cosine distances.")
    alpha: float = Field(1.0, gt=0, le=1e9, description="Penalty of the ridge regression.")
    seed: plugin.Seed = 0


class Lime(AnytimeMethod):
    """The slopes of a weighted ridge regression of the target on who takes part.

    Each player takes part in half of the samples; where it does not, its cells hold the baseline. A sample weighs
    ``sqrt(exp(−d² / width²))``, d the cosine distance of who takes part from all. ``units`` holds the slope of each
    player, divided evenly among its cells; ``maps["r_squared"]``, ``(batch,)``, says how well the linear model fits the
    weighted samples (1 where the target never changed), and ``maps["intercept"]`` is where no player takes part. The
    slopes are shrunk by the penalty and do not add up to anything; a player all of whose cells hold the baseline has
    none. The standard error is from leaving out batches of
    samples, and holds the mean of what this budget gives, not a Shapley value.

    Source: Ribeiro, Singh & Guestrin, "Why Should I Trust You?" (2016), equation 2, with the kernel of their image
    explainer. Departure: no selection of players.
    """

    name = "lime"
    summary = "Slopes of a local linear model over tones, bands, frames or links, with its R²."
    source = "Ribeiro et al. 2016, arXiv:1602.04938"
    Parameters = LimeParameters

    def steps(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> Iterator[Step]:
        """Draw batch by batch."""
        game = Game(model, windows, parameters)
        fit = _Fit(game, parameters)
        runs = list(plugin.even_runs(parameters.budget, -(-parameters.budget // BATCHES)))
        for number, run in enumerate(runs):
            random = plugin.generator(parameters.seed, "perturbed", number)
            fit.add(random.random((run.stop - run.start, game.players)) < 0.5)
            yield partial(fit.estimate)

    def evaluations(self, windows: plugin.Windows, parameters: Any) -> int:
        """Count the samples and the window."""
        return int(parameters.budget) + 1


class _Fit:
    """The regression of one request; values are counted from the window's own."""

    def __init__(self, game: Game, parameters: LimeParameters) -> None:
        self._game, self._width = game, parameters.kernel_width
        penalty = np.full(game.players + 1, parameters.alpha)
        penalty[-1] = 0.0  # the intercept goes free
        window = np.ones((1, game.players + 1))  # the window itself is a sample, of weight 1 and value 0
        self._penalty = np.diag(penalty)
        nothing = np.zeros((game.players + 1, len(game.full)))
        self._squares = BatchedLeastSquares(self._penalty + window.T @ window, nothing, None)
        self._constraints = [self._constraint(*pattern) for pattern in game.patterns()]
        self._moments = np.zeros((3, len(game.full)))  # of the values: weighted squares, sums, and the weights
        self._moments[2] += 1.0

    def add(self, takes_part: Coalitions) -> None:
        """Add a batch of samples."""
        rows = np.column_stack([takes_part, np.ones(len(takes_part))])
        distance = 1.0 - np.sqrt(takes_part.mean(axis=1))
        weights = np.sqrt(np.exp(-((distance / self._width) ** 2)))
        values = self._game.value(takes_part) - self._game.full[:, None]
        self._squares.add(rows, values, weights)
        self._moments += np.stack([values**2 @ weights, values @ weights, np.full(len(values), weights.sum())])

    def estimate(self) -> plugin.Estimate:
        """Return the slopes, how well they fit, and how far the batches disagree."""
        found = self._squares.solution(self._constraints)
        batches = self._squares.batches
        error = None
        if batches > 1:
            error = jackknife(self._game.tones_of(self._squares.without_each(self._constraints)[..., :-1]))
        maps = {"r_squared": self._r_squared(found), "intercept": found[:, -1] + self._game.full}
        return self._game.estimate(found[:, :-1], complete=False, standard_error=error, batches=batches, maps=maps)

    def _constraint(self, windows: npt.NDArray[np.int64], matter: npt.NDArray[np.int64]) -> Constraint:
        """Say that players at the baseline have no slope."""
        basis = np.eye(self._game.players + 1)[:, np.append(matter, self._game.players)]
        return Constraint(windows, basis, np.zeros((len(basis), windows.size)))

    def _r_squared(self, found: Float64Array) -> Float64Array:
        squares, sums, weights = self._moments
        matrix, sides = self._squares.totals()
        matrix = matrix - self._penalty
        left = squares - 2 * (found * sides.T).sum(axis=1) + np.einsum("wi,ij,wj->w", found, matrix, found)
        spread = squares - sums**2 / weights
        constant = spread <= 1e-12 * np.maximum(squares, np.finfo(np.float64).tiny)
        r_squared: Float64Array = np.where(constant, 1.0, 1.0 - left / np.where(constant, 1.0, spread))
        return r_squared


@plugin.hookimpl
def tonescope_methods() -> list[plugin.Method]:
    """Offer LIME."""
    return [Lime()]
