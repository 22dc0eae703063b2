"""The map of tones × frames: the attribution of one window in colour over its waterfall in grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tonescope_server.pictures.band import Band, draw_bars, legend
from tonescope_server.pictures.colours import Scale, scale_of
from tonescope_server.pictures.figure import headline, new_figure
from tonescope_server.pictures.rows import Row
from tonescope_server.pictures.spectrum import (
    field_name,
    fields_of,
    hatch,
    index_label,
    label_frequency,
    line,
    x_of,
)

USUAL = (0.02, 0.98)
"""Quantiles of the window's values that its greys reach from and to: one odd frame does not leave the others alike."""


def map_figure(
    band: Band,
    cells: npt.NDArray[Any],
    amplitudes: npt.NDArray[Any] | None,
    seconds_per_frame: float | None = None,
) -> Figure:
    """Draw the band over a map of one window: its waterfall in grey, its attribution over it in colour.

    Shapes:
        cells, amplitudes: ``(n_frames, n_tones)``, both in the order of the table's rows; without amplitudes nothing
        lies below the attribution.
    """
    fields = fields_of(band.table)
    figure = new_figure(10, 7.2)
    grid: Any = figure.subplots(2, len(fields), squeeze=False, sharex="col", sharey="row", height_ratios=(1.0, 1.15))
    scale = scale_of(cells, over=amplitudes is not None)
    picture: Any = None
    for (upper, lower), tones in zip(grid.T, fields, strict=True):
        draw_bars(upper, band, tones)
        picture = draw_map(lower, tones, cells, amplitudes, scale)
        label_frequency(upper, tones, band.table.centre_mhz, field_name(tones, fields), below=False)
        lower.set_xlabel(index_label(tones))
    grid[0][0].set_ylabel(band.unit)
    grid[1][0].set_ylabel("frame")
    if seconds_per_frame:
        right = grid[1][-1].secondary_yaxis("right", functions=line(seconds_per_frame, 0.0))
        right.set_ylabel("seconds")
    said = f"{band.unit} per cell" + ("" if amplitudes is None else "\n(grey: the window itself)")
    pad = 0.09 if seconds_per_frame else 0.02
    figure.colorbar(picture, ax=list(grid[1]), label=said, pad=pad, extend=scale.extend)
    headline(figure, band.title, band.subtitle)
    legend(figure, band)
    return figure


def draw_map(
    axes: Axes,
    tones: Sequence[Row],
    cells: npt.NDArray[Any],
    amplitudes: npt.NDArray[Any] | None,
    scale: Scale,
) -> Any:
    """Lay the attribution over the waterfall: the stronger, the less grey shows through."""
    first, last = x_of(tones[0]), x_of(tones[-1])
    shape = len(cells), last - first + 1
    grey, shown = np.full(shape, np.nan), np.full(shape, np.nan)
    for tone in tones:
        if tone.kind != "null" and amplitudes is not None:
            grey[:, x_of(tone) - first] = amplitudes[:, tone.row]
        if tone.kind != "null" or cells[:, tone.row].any():
            shown[:, x_of(tone) - first] = cells[:, tone.row]
    edges = np.arange(first, last + 2) - 0.5
    frames = np.arange(len(cells) + 1) - 0.5
    hatch(axes, tones)
    opacity: Any = None
    if amplitudes is not None:
        ends = np.nanquantile(grey, USUAL) if np.isfinite(grey).any() else (0.0, 1.0)
        below = Normalize(float(ends[0]), float(ends[1]))
        axes.pcolormesh(edges, frames, np.ma.masked_invalid(grey), cmap="Greys", norm=below, alpha=0.6)
        opacity = np.nan_to_num(np.clip(np.abs(shown) / (scale.norm.vmax or 1.0), 0, 1) ** 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return axes.pcolormesh(
        edges, frames, np.ma.masked_invalid(shown), cmap=scale.colours, norm=scale.norm, alpha=opacity
    )
