"""The cooperative game that a window is: what the target is worth when only some players take part.

Values of coalitions, evaluated many at a time; what a player's share comes to in cells and tones. Which coalitions are
asked for, and how shares follow from their values, is the affair of the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tonescope_plugins._masking import masked_scores
from tonescope_plugins._players import PlayerParameters, player_of_cell
from tonescope_server import plugin

Coalitions = npt.NDArray[np.bool_]
"""Who takes part, ``(coalitions, players)``."""
Float64Array = npt.NDArray[np.float64]


class Game:
    """Windows as games of the same players.

    Attributes:
        players: how many there are.
        full: the target where all take part, ``(batch,)``.
        empty: where none does: the baseline's, ``(batch,)``.
    """

    def __init__(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: PlayerParameters) -> None:
        self._model = model
        self._windows = windows
        self._player_of_cell = player_of_cell(windows, parameters)
        self.players = int(self._player_of_cell.max()) + 1
        self._baseline = parameters.baseline_of(windows).reshape(-1, self._player_of_cell.size)

    @cached_property
    def full(self) -> Float64Array:
        """The target where all take part."""
        return self.value(np.ones((1, self.players), bool))[:, 0]

    @cached_property
    def empty(self) -> Float64Array:
        """The target where none does."""
        return self.value(np.zeros((1, self.players), bool))[:, 0]

    @property
    def change(self) -> Float64Array:
        """What all players share, ``(batch,)``."""
        return self.full - self.empty

    def patterns(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield windows of the same players that matter, and these players.

        A player all of whose cells hold the baseline changes nothing by taking part: its value is known to be zero.
        """
        differs = self._windows.x.reshape(len(self._windows.x), -1) != self._baseline
        matters = np.stack([np.bincount(self._player_of_cell, row, self.players) > 0 for row in differs])
        kinds, of_window = np.unique(matters, axis=0, return_inverse=True)
        for number, kind in enumerate(kinds):
            yield np.flatnonzero(of_window.reshape(-1) == number), np.flatnonzero(kind)

    def value(self, coalitions: Coalitions) -> Float64Array:
        """Return the target with the players of each coalition, ``(batch, coalitions)``."""
        found = masked_scores(
            self._model,
            self._windows,
            len(coalitions),
            lambda some: coalitions[some][:, self._player_of_cell],
            self._baseline,
        )
        return found.astype(np.float64)

    def every_value(self, coalitions: Coalitions) -> Float64Array:
        """Return the values of all coalitions, the empty one first and the full one last."""
        return np.column_stack([self.empty, self.value(coalitions[1:-1]), self.full])

    def tones_of(self, shares: Float64Array) -> Float64Array:
        """Return what tones get of shares: ``(…, players)`` → ``(…, n_tones)``."""
        return shares @ self._tones_of_players

    def estimate(
        self,
        shares: Float64Array,
        *,
        complete: bool = True,
        standard_error: Float64Array | None = None,
        batches: int | None = None,
        maps: Mapping[str, Float64Array] | None = None,
    ) -> plugin.Estimate:
        """Return shares as an estimate: a player's is divided evenly among its cells.

        Args:
            shares: ``(batch, players)``.
            complete: whether they should add up to the change of the target.
            standard_error: of the tones.
            batches: how many independent batches it is from.
            maps: what else there is to show.
        """
        dtype = self._windows.x.dtype
        cells = (shares / self._sizes)[:, self._player_of_cell].astype(dtype)
        delta = cells.sum(axis=1, dtype=np.float64) - self.change if complete else None
        return plugin.Estimate(
            cells.reshape(self._windows.x.shape),
            convergence_delta=None if delta is None else delta.astype(np.float32),
            units=shares.astype(np.float32),
            standard_error=None if standard_error is None else standard_error.astype(np.float32),
            batches=batches,
            maps={name: array.astype(np.float32) for name, array in (maps or {}).items()},
        )

    @cached_property
    def _sizes(self) -> npt.NDArray[np.int64]:
        return np.bincount(self._player_of_cell, minlength=self.players)

    @cached_property
    def _tones_of_players(self) -> Float64Array:
        """Which part of a player's share each tone has, ``(players, n_tones)``."""
        found = np.zeros((self.players, self._windows.n_tones))
        np.add.at(found, (self._player_of_cell, self._windows.tone_of_cell), 1.0)
        return found / self._sizes[:, None]


Step = Callable[[], plugin.Estimate]
"""Works out the estimate as it stands."""


class AnytimeMethod(plugin.ProceduralMethod):
    """A method that samples, batch by batch. Write ``steps``: the estimate is worked out where it is asked for."""

    def steps(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> Iterator[Step]:
        """Yield, after each batch of samples, what works out the estimate."""
        raise NotImplementedError

    def attribute(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> plugin.Estimate:
        """Return the estimate after the last batch."""
        last: Step | None = None
        for step in self.steps(model, windows, parameters):
            last = step
        assert last is not None  # steps() yields at least once
        return last()

    def refine(self, model: plugin.ModelAccess, windows: plugin.Windows, parameters: Any) -> Iterator[plugin.Estimate]:
        """Yield the estimate after each batch."""
        for step in self.steps(model, windows, parameters):
            yield step()
