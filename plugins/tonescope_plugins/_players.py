"""Groups of cells as players of a cooperative game: how they are asked for, and which cell is whose.

A player takes part with the window's own values in its cells; where it does not, they hold the baseline. No player is
ever left out to save work.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from tonescope_plugins import _parts
from tonescope_server import plugin
from tonescope_server.errors import ParameterError, ShapeError
from tonescope_server.types import IntArray

# Where nobody says how wide a band is, there are at most this many: 1,024 coalitions are quickly enumerated.
BANDS = 10

Players = Annotated[
    Literal["tone", "band", "frame", "link"] | list[int],
    BeforeValidator(plugin.as_lists),
    Field(
        description="Who shares the change of the target: each tone, each band of tones that are neighbours in "
        "frequency (within a training field, null tones apart), each frame, each antenna link, or an explicit map: the "
        "player of each cell, or of each row along `axis`, counted from 0."
    ),
]
"""The type of a parameter that names players."""


class PlayerParameters(plugin.BaselineParameters):
    """The parameters of a method whose players are groups of cells."""

    players: Players = "tone"
    axis: int | None = Field(
        None,
        ge=1,
        description="The axis of the input along which an explicit map of players has its entries (axis 0 is the "
        "batch); absent means that the map has one for each cell, in the input's order.",
    )
    band_size: int | None = Field(
        None, ge=1, description=f"Tones in a band; absent means the fewest that make at most {BANDS} bands."
    )


def player_of_cell(windows: plugin.Windows, parameters: PlayerParameters) -> IntArray:
    """Return the player of each flat cell, ``(cells,)``: every player has a cell, and every cell a player.

    Raises:
        ParameterError: an axis or a band size that these windows do not have or that nothing reads, or a map that
            leaves a player out.
        ShapeError: a map of another length.
    """
    players = parameters.players
    if parameters.axis is not None and not isinstance(players, list):
        raise ParameterError(
            f"parameter 'axis': expected it with an explicit map of players only, not with '{players}'"
        )
    if parameters.band_size is not None and players != "band":
        raise ParameterError("parameter 'band_size': expected it with players='band' only")
    if isinstance(players, list):
        return _mapped(windows, players, parameters.axis)
    if players == "tone":
        return _counted(windows.tone_of_cell)
    if players == "frame":
        return windows.frame_of_cell
    if players == "link":
        return _parts.link_of_cell(windows)
    return _bands(windows, parameters.band_size)


def player_count(windows: plugin.Windows, parameters: PlayerParameters) -> int:
    """Count the players; raises what ``player_of_cell`` raises."""
    return int(player_of_cell(windows, parameters).max()) + 1


def _counted(of_cell: IntArray) -> IntArray:
    """Count from 0 without gaps: a tone without a cell is no player."""
    return np.unique(of_cell, return_inverse=True)[1].astype(np.int64).reshape(-1)


def _mapped(windows: plugin.Windows, players: list[int], axis: int | None) -> IntArray:
    given = np.asarray(players, np.int64)
    rows = np.arange(windows.tone_of_cell.size) if axis is None else _parts.row_of_cell(windows, axis, "axis")
    expected, what = int(rows.max()) + 1, "cells" if axis is None else f"rows along axis {axis}"
    if given.size != expected:
        raise ShapeError(f"parameter 'players': expected a map of {expected} {what}, got {given.size} entries")
    if given.min() < 0 or np.unique(given).size != given.max() + 1:
        raise ParameterError(
            f"parameter 'players': expected players counted from 0, each with an entry, got {np.unique(given).tolist()}"
        )
    found: IntArray = given[rows]
    return found


def _bands(windows: plugin.Windows, size: int | None) -> IntArray:
    largest = max(len(group) for group in windows.tone_groups)
    if size is None:
        counts = (sum(-(-len(group) // each) for group in windows.tone_groups) for each in range(1, largest + 1))
        size = next((each for each, count in enumerate(counts, 1) if count <= BANDS), largest)
    if size > largest:
        raise ParameterError(f"parameter 'band_size': expected at most {largest}, got {size}")
    found: Any = _parts.of_bands(windows, size, size).argmax(axis=0)
    return _counted(found.astype(np.int64))
