"""What else a method has to show: attention per layer and head, a class activation map on its grid, interactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tonescope_server.pictures.colours import DARK, POSITIVE, Scale, scale_of
from tonescope_server.pictures.figure import headline, new_figure

MOST_PANELS = 8
"""In a row: of more heads the mean is shown, and the first."""
MOST_ROWS = 24
PANEL = 1.75  # inches, of each side
# What the axes of maps count that go by these names; others count themselves.
_TOKENS = ("attended token", "token")
_AXES = {
    "attention": _TOKENS,
    "rollout": _TOKENS,
    "relevance": _TOKENS,
    "tokens": ("token (0: the class token, where there is one)", ""),
}
_AXES |= {
    "interactions": ("group of tones or cells", "group"),
    "cam": ("place in the layer's grid", "in the layer's grid"),
}


@dataclass(frozen=True)
class MapRow:
    """The panels of one map: all have one scale.

    Attributes:
        name: of the map.
        panels: what each shows, ``(rows, columns)`` or ``(n,)``, with what stands above it.
        note: what is not shown; "" where everything is.
    """

    name: str
    panels: tuple[tuple[str, npt.NDArray[Any]], ...]
    note: str = ""


def rows_of(maps: Mapping[str, npt.NDArray[Any]]) -> list[MapRow]:
    """List what can be drawn of one window's maps: lines, matrices, and stacks of matrices; single numbers cannot.

    Shapes:
        each map without its batch axis.
    """
    rows = [_row(name, np.squeeze(values)) for name, values in maps.items() if np.squeeze(values).ndim in (1, 2, 3)]
    return rows[:MOST_ROWS]


def _row(name: str, values: npt.NDArray[Any]) -> MapRow:
    if values.ndim < 3:
        return MapRow(name, (("", values),))
    every = [(f"{i}" if not name.startswith("attention") else f"head {i}", each) for i, each in enumerate(values)]
    if len(every) <= MOST_PANELS:
        return MapRow(name, tuple(every))
    first = every[: MOST_PANELS - 1]
    return MapRow(name, (("mean of all", values.mean(axis=0)), *first), f"{len(first)} of {len(every)} shown")


def maps_figure(
    title: str,
    subtitle: str,
    rows: list[MapRow],
    over: Callable[[Figure, Any], None] | None = None,
    over_height: float = 3.2,
) -> Figure:
    """Draw maps below each other, each row with its own scale; above them, where given, what came of them on the input.

    Args:
        title: what stands above; ``subtitle`` under it.
        subtitle: what one needs to read the picture.
        rows: the maps.
        over: draws on the input, in a part of the figure's grid.
        over_height: of that part, in inches.
    """
    columns = max(2, *(len(row.panels) for row in rows))
    heights = [over_height] * (over is not None) + [PANEL if row.panels[0][1].ndim == 2 else 1.2 for row in rows]
    width = float(np.clip(PANEL * columns + 1.6, 8.0, 16.0))
    figure = new_figure(width, sum(heights) + 0.45 * len(heights) + 0.7)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    if over is not None:
        over(figure, grid[0])
    for number, row in enumerate(rows, start=over is not None):
        _draw_row(figure, grid[number], row, columns)
    headline(figure, title, subtitle)
    return figure


def _draw_row(figure: Figure, place: Any, row: MapRow, columns: int) -> None:
    is_line = row.panels[0][1].ndim == 1
    inner = place.subgridspec(1, 1 if is_line else columns)
    scale, is_clipped = _scale(row)
    across, up = _AXES.get(row.name.partition(":")[0], ("column", "row"))
    drawn: Any = None
    shown = [figure.add_subplot(inner[0, i]) for i in range(len(row.panels))]
    for axes, (name, values) in zip(shown, row.panels, strict=True):
        if values.ndim == 1:
            _draw_line(axes, values)
        else:
            drawn = axes.imshow(
                values, cmap=scale.colours, norm=scale.norm, interpolation="nearest", aspect=_aspect(row.name)
            )
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.set_title(name, fontsize=8)
        axes.set_xlabel(across, fontsize=8)
        axes.tick_params(labelsize=7)
    up = "" if is_line else up
    said = f"{row.name}\n({row.note})" if row.note else row.name
    shown[0].set_ylabel(f"{said}\n{up}".strip(), fontsize=8, parse_math=False)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=shown, pad=0.01, extend="max" if is_clipped else scale.extend)
        beyond = "\n(the diagonal is beyond)" if is_clipped else ""
        bar.set_label(row.name + beyond, fontsize=8, parse_math=False)
        bar.ax.tick_params(labelsize=7)


def _scale(row: MapRow) -> tuple[Scale, bool]:
    """Choose one scale for a row, and say whether the diagonal is beyond it.

    What tokens pass on starts as the identity: its ones would leave all others in the darkest colour.
    """
    values = np.concatenate([values.ravel() for _, values in row.panels])
    if row.name not in ("rollout", "relevance"):
        return scale_of(values), False
    matrix = row.panels[0][1]
    others = matrix[np.eye(*matrix.shape) == 0]
    return scale_of(others), bool(matrix.max() > others.max())


def _aspect(name: str) -> Any:
    """Say how panels are stretched: a matrix of tokens is square, the grid of a layer is as wide as it may be."""
    return "equal" if _AXES.get(name.partition(":")[0]) == _TOKENS else "auto"


def _draw_line(axes: Axes, values: npt.NDArray[Any]) -> None:
    axes.bar(np.arange(len(values)), values, width=0.82, color=POSITIVE)
    axes.axhline(0, color=DARK, lw=0.8)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
