"""The band plot: the attribution of every tone over its subcarrier index; whole, or by links and components."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tonescope_server.pictures.colours import (
    DARK,
    MISSING_PATCH,
    NEGATIVE,
    NULL_PATCH,
    ON_NULL,
    PILOT,
    PLANTED,
    POSITIVE,
)
from tonescope_server.pictures.figure import headline, new_figure
from tonescope_server.pictures.rows import Row, Rows
from tonescope_server.pictures.spectrum import (
    field_name,
    fields_of,
    hatch,
    index_label,
    label_frequency,
    missing,
    x_of,
)

SEEN = 1 / 200
"""The part of the highest bar that another needs to be seen: about a pixel."""


@dataclass(frozen=True)
class Band:
    """What a picture shows.

    Attributes:
        title: the headline.
        subtitle: model, method, target: what one needs to read the picture.
        table: the tones.
        tones: attribution per row of the table.
        error: its standard error per row; None draws none.
        unit: what the attribution's axis says.
        planted: rows to mark as known to matter.
        alarms: whether what lies on null tones has a colour of its own.
    """

    title: str
    subtitle: str
    table: Rows
    tones: npt.NDArray[Any]
    error: npt.NDArray[Any] | None = None
    unit: str = "attribution"
    planted: Collection[int] = ()
    alarms: bool = True


def band_figure(band: Band) -> Figure:
    """Draw the attribution of every tone over its subcarrier index."""
    figure = new_figure(10, 4.4)
    fields = fields_of(band.table)
    axes: Any = figure.subplots(1, len(fields), squeeze=False, sharey=True)
    for each, tones in zip(axes[0], fields, strict=True):
        draw_bars(each, band, tones)
        label_frequency(each, tones, band.table.centre_mhz, field_name(tones, fields))
    axes[0][0].set_ylabel(band.unit)
    headline(figure, band.title, band.subtitle)
    legend(figure, band)
    return figure


def parts_figure(band: Band, parts: Sequence[tuple[str, npt.NDArray[Any]]]) -> Figure:
    """Draw a band for each part of the attribution, such as an antenna link or a component, one below the other.

    Shapes:
        each part ``(n_tones,)``, in the order of the table's rows.
    """
    fields = fields_of(band.table)
    figure = new_figure(10, 2.2 + 2.2 * len(parts))
    grid: Any = figure.subplots(len(parts), len(fields), squeeze=False, sharex="col", sharey=True)
    for row, (name, values) in enumerate(parts):
        part = replace(band, tones=values, error=None)
        for axes, tones in zip(grid[row], fields, strict=True):
            draw_bars(axes, part, tones)
            if row == 0:
                label_frequency(axes, tones, band.table.centre_mhz, field_name(tones, fields), below=False)
            if row == len(parts) - 1:
                axes.set_xlabel(index_label(tones))
        grid[row][0].set_ylabel(f"{name}\n{band.unit}", parse_math=False)
    headline(figure, band.title, band.subtitle)
    legend(figure, band)
    return figure


def draw_bars(axes: Axes, band: Band, tones: Sequence[Row]) -> None:
    """Draw one training field's bars, over its null tones, pilots and planted tones."""
    x = np.array([x_of(tone) for tone in tones])
    rows = [tone.row for tone in tones]
    values = np.asarray(band.tones)[rows]
    hatch(axes, tones)
    for tone in tones:
        if tone.kind == "pilot":
            axes.axvline(x_of(tone), color=PILOT, lw=0.9, ls=(0, (2, 2)), zorder=0)
    null = [tone.kind == "null" and band.alarms for tone in tones]
    colours = np.where(null, ON_NULL, np.where(values < 0, NEGATIVE, POSITIVE))
    axes.bar(x, values, width=0.82, color=colours, zorder=2)
    if band.error is not None:
        axes.errorbar(x, values, np.asarray(band.error)[rows], fmt="none", ecolor="#333333", elinewidth=0.8, zorder=3)
    _mark_planted(axes, x[[row in band.planted for row in rows]])
    axes.axhline(0, color=DARK, lw=0.8, zorder=3)
    axes.set_xlim(x.min() - 0.5, x.max() + 0.5)
    axes.margins(y=0.08)
    axes.spines[["right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", lw=0.6, zorder=-1)
    axes.set_axisbelow(True)


def _mark_planted(axes: Axes, at: npt.NDArray[Any]) -> None:
    if len(at):
        below = np.full(len(at), -0.035)
        shown = axes.get_xaxis_transform()
        axes.plot(at, below, "^", color=PLANTED, ms=5, zorder=4, clip_on=False, transform=shown)
        axes.tick_params(axis="x", pad=8)


def _shows_on(band: Band, rows: list[int]) -> bool:
    """Say whether bars on these rows have the colour of an alarm, and are high enough to be seen."""
    heights = np.abs(np.asarray(band.tones))
    return band.alarms and bool(rows) and bool(heights[rows].max() > SEEN * heights.max())


def legend(figure: Figure, *bands: Band) -> None:
    """Say below what the colours and marks are, of those that there are in one band or another of the same tones."""
    tones = bands[0].table.tones
    kinds = {tone.kind for tone in tones}
    marks: list[Any] = [Patch(color=POSITIVE, label="raises the target")]
    if any(np.any(np.asarray(band.tones) < 0) for band in bands):
        marks.append(Patch(color=NEGATIVE, label="lowers it"))
    else:
        marks = [Patch(color=POSITIVE, label=bands[0].unit)]
    on_null = [tone.row for tone in tones if tone.kind == "null"]
    if any(_shows_on(band, on_null) for band in bands):
        marks.append(Patch(color=ON_NULL, label="on a tone without signal"))
    if "null" in kinds:
        marks.append(Patch(**NULL_PATCH, label="null tone"))
    if any(missing(part) for part in fields_of(bands[0].table)):
        marks.append(Patch(**MISSING_PATCH, label="not recorded"))
    if "pilot" in kinds:
        marks.append(Line2D([], [], color=PILOT, lw=0.9, ls=(0, (2, 2)), label="pilot"))
    if any(band.planted for band in bands):
        marks.append(Line2D([], [], marker="^", color=PLANTED, ls="", ms=5, label="planted tone"))
    if any(band.error is not None for band in bands):
        marks.append(Line2D([], [], marker="|", color="#333333", ls="", ms=9, label="± standard error"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)
