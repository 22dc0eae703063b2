"""Pictures for files: the band plot, and the map of tones × frames over the waterfall. Drawn without a display."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from tonescope.results import Tone, ToneTable
from tonescope_server.cli.console import writing
from tonescope_server.errors import ParameterError

POSITIVE, NEGATIVE, PILOT, PLANTED = "#2166ac", "#b2182b", "#7a7a7a", "#e6a700"
ON_NULL = "#e0218a"
DIVERGING = "RdBu"
NULL_PATCH: dict[str, Any] = {"facecolor": "#f2f2f2", "edgecolor": "#c4c4c4", "hatch": "////", "lw": 0}
MISSING_PATCH: dict[str, Any] = {"facecolor": "white", "edgecolor": "#cccccc", "hatch": "..", "lw": 0}
DPI = 150
MARGIN = 0.012  # of the figure's width, beside what is written above the drawing
LONGEST_WORD = 40  # characters: fewer than fit in a line, in any letters
MOST_NAMES = 40


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
    """

    title: str
    subtitle: str
    table: ToneTable
    tones: npt.NDArray[Any]
    error: npt.NDArray[Any] | None = None
    unit: str = "attribution"
    planted: Collection[int] = ()


def band_picture(band: Band, path: Path) -> None:
    """Draw the attribution of every tone over its subcarrier index, and write it to ``path``."""
    _save(band_figure(band), path)


def band_figure(band: Band) -> Figure:
    """Draw the attribution of every tone over its subcarrier index."""
    figure = Figure(figsize=(10, 4.4), dpi=DPI, layout="constrained")
    fields = _fields(band.table)
    axes = _row_of_axes(figure, len(fields))
    for each, tones in zip(axes, fields, strict=True):
        _draw_bars(each, band, tones)
        _label_frequency(each, tones, field_name=tones[0].training_field if len(fields) > 1 else "")
    axes[0].set_ylabel(band.unit)
    _headline(figure, band)
    _legend(figure, band)
    return figure


def parts_picture(band: Band, parts: Sequence[tuple[str, npt.NDArray[Any]]], path: Path) -> None:
    """Draw a band for each part of the attribution, named, one below the other, and write it to ``path``."""
    _save(parts_figure(band, parts), path)


def parts_figure(band: Band, parts: Sequence[tuple[str, npt.NDArray[Any]]]) -> Figure:
    """Draw a band for each part of the attribution, such as an antenna link or a component.

    Shapes:
        each part ``(n_tones,)``, in the order of the table's rows.
    """
    fields = _fields(band.table)
    figure = Figure(figsize=(10, 2.2 + 2.2 * len(parts)), dpi=DPI, layout="constrained")
    grid: Any = figure.subplots(len(parts), len(fields), squeeze=False, sharex="col", sharey=True)
    for row, (name, values) in enumerate(parts):
        part = replace(band, tones=values, error=None)
        for column, tones in enumerate(fields):
            axes = grid[row][column]
            _draw_bars(axes, part, tones)
            if row == 0:
                _label_frequency(axes, tones, tones[0].training_field if len(fields) > 1 else "", below=False)
            if row == len(parts) - 1:
                axes.set_xlabel(_index_label(tones))
        grid[row][0].set_ylabel(f"{name}\n{band.unit}", parse_math=False)
    _headline(figure, band)
    _legend(figure, band)
    return figure


def map_picture(
    band: Band,
    cells: npt.NDArray[Any],
    amplitudes: npt.NDArray[Any],
    path: Path,
    seconds_per_frame: float | None = None,
) -> None:
    """Draw the band over a map of one window, as ``map_figure`` does, and write it to ``path``."""
    _save(map_figure(band, cells, amplitudes, seconds_per_frame), path)


def map_figure(
    band: Band, cells: npt.NDArray[Any], amplitudes: npt.NDArray[Any], seconds_per_frame: float | None = None
) -> Figure:
    """Draw the band over a map of one window: its waterfall in grey, its attribution over it in colour.

    Shapes:
        cells, amplitudes: ``(n_frames, n_tones)``, both in the order of the table's rows.
    """
    fields = _fields(band.table)
    figure = Figure(figsize=(10, 7.2), dpi=DPI, layout="constrained")
    grid: Any = figure.subplots(2, len(fields), squeeze=False, sharex="col", sharey="row", height_ratios=(1.0, 1.15))
    limit = float(np.abs(cells).max()) or 1.0
    picture = None
    for column, tones in enumerate(fields):
        upper, lower = grid[0][column], grid[1][column]
        _draw_bars(upper, band, tones)
        picture = _draw_map(lower, tones, cells, amplitudes, limit)
        _label_frequency(upper, tones, tones[0].training_field if len(fields) > 1 else "", below=False)
        lower.set_xlabel(_index_label(tones))
    grid[0][0].set_ylabel(band.unit)
    grid[1][0].set_ylabel("frame")
    if seconds_per_frame:
        _label_seconds(grid[1][-1], seconds_per_frame)
    if picture is not None:
        figure.colorbar(
            picture,
            ax=list(grid[1]),
            label="attribution per cell\n(grey: the window itself)",
            pad=0.09 if seconds_per_frame else 0.02,
        )
    _headline(figure, band)
    _legend(figure, band)
    return figure


def _row_of_axes(figure: Figure, n: int) -> Sequence[Axes]:
    axes: Any = figure.subplots(1, n, squeeze=False, sharey=True)
    return list(axes[0])


def _fields(table: ToneTable) -> list[list[Tone]]:
    """Split the tones by training field, each in the order of the spectrum."""
    names = list(dict.fromkeys(tone.training_field for tone in table.tones))
    parts = [[tone for tone in table.tones if tone.training_field == name] for name in names]
    return [sorted(part, key=lambda tone: _x(tone)) for part in parts]


def _x(tone: Tone) -> int:
    return tone.row if tone.subcarrier_index is None else tone.subcarrier_index


def _draw_bars(axes: Axes, band: Band, tones: Sequence[Tone]) -> None:
    x = np.array([_x(tone) for tone in tones])
    rows = [tone.row for tone in tones]
    values = np.asarray(band.tones)[rows]
    _hatch(axes, tones)
    for tone in tones:
        if tone.kind == "pilot":
            axes.axvline(_x(tone), color=PILOT, lw=0.9, ls=(0, (2, 2)), zorder=0)
    null = [tone.kind == "null" for tone in tones]
    colours = np.where(null, ON_NULL, np.where(values < 0, NEGATIVE, POSITIVE))
    axes.bar(x, values, width=0.82, color=colours, zorder=2)
    if band.error is not None:
        axes.errorbar(x, values, np.asarray(band.error)[rows], fmt="none", ecolor="#333333", elinewidth=0.8, zorder=3)
    planted = [i for i, row in enumerate(rows) if row in band.planted]
    if planted:
        axes.plot(
            x[planted],
            np.full(len(planted), -0.035),
            "^",
            color=PLANTED,
            ms=5,
            zorder=4,
            clip_on=False,
            transform=axes.get_xaxis_transform(),
        )
        axes.tick_params(axis="x", pad=8)
    axes.axhline(0, color="#444444", lw=0.8, zorder=3)
    axes.set_xlim(x.min() - 0.5, x.max() + 0.5)
    axes.margins(y=0.08)
    axes.spines[["right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", lw=0.6, zorder=-1)
    axes.set_axisbelow(True)


def _draw_map(
    axes: Axes, tones: Sequence[Tone], cells: npt.NDArray[Any], amplitudes: npt.NDArray[Any], limit: float
) -> Any:
    """Lay the attribution over the waterfall: the stronger, the less grey shows through."""
    first, last = _x(tones[0]), _x(tones[-1])
    shape = len(cells), last - first + 1
    grey, shown = np.full(shape, np.nan), np.full(shape, np.nan)
    for tone in tones:
        if tone.kind != "null":
            grey[:, _x(tone) - first] = amplitudes[:, tone.row]
        if tone.kind != "null" or cells[:, tone.row].any():
            shown[:, _x(tone) - first] = cells[:, tone.row]
    edges = np.arange(first, last + 2) - 0.5
    frames = np.arange(len(cells) + 1) - 0.5
    _hatch(axes, tones)
    axes.pcolormesh(edges, frames, np.ma.masked_invalid(grey), cmap="Greys", alpha=0.75)
    opacity = np.nan_to_num(np.clip(np.abs(shown) / limit, 0, 1) ** 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    picture = np.ma.masked_invalid(shown)
    return axes.pcolormesh(edges, frames, picture, cmap=DIVERGING, vmin=-limit, vmax=limit, alpha=opacity)


def _hatch(axes: Axes, tones: Sequence[Tone]) -> None:
    """Hatch the null tones, and dot the indices that the layout does not have."""
    nulls = {_x(tone) for tone in tones if tone.kind == "null"}
    for x in range(_x(tones[0]), _x(tones[-1]) + 1):
        if x in nulls:
            axes.axvspan(x - 0.5, x + 0.5, **NULL_PATCH)
    for x in _missing(tones):
        axes.axvspan(x - 0.5, x + 0.5, **MISSING_PATCH)


def _missing(tones: Sequence[Tone]) -> set[int]:
    """Give the indices between the first and the last that belong to no tone, where only some are left out."""
    indices = [_x(tone) for tone in tones]
    missing = set(range(indices[0], indices[-1] + 1)) - set(indices)
    return missing - {0} if len(missing) < len(indices) // 2 else set()


def _index_label(tones: Sequence[Tone]) -> str:
    if any(tone.name for tone in tones):
        return "feature" if len(tones) <= MOST_NAMES else "feature (row)"
    known = all(tone.subcarrier_index is not None for tone in tones)
    return "subcarrier index (DC = 0)" if known else "row (tone identity unknown)"


def _label_frequency(axes: Axes, tones: Sequence[Tone], field_name: str, below: bool = True) -> None:
    """Label the index below and, where it is known, the offset in MHz above."""
    if below:
        axes.set_xlabel(_index_label(tones))
    if any(tone.name for tone in tones) and len(tones) <= MOST_NAMES:
        axes.set_xticks([_x(tone) for tone in tones], [tone.name for tone in tones], rotation=30, ha="right")
    name = f"{field_name.upper().replace('_', '-')}: " if field_name else ""
    spacing = _spacing_mhz(tones)
    if spacing is None:
        axes.set_title(name.rstrip(": "), fontsize=9)
        return
    first = tones[0]
    is_absolute = first.frequency_mhz is not None
    shift = (first.frequency_mhz or (first.offset_hz or 0.0) * 1e-6) - _x(first) * spacing
    top = axes.secondary_xaxis("top", functions=_line(spacing, shift))
    top.ticklabel_format(useOffset=False)
    top.set_xlabel(f"{name}frequency (MHz)" if is_absolute else f"{name}offset from the centre frequency (MHz)")


def _line(slope: float, shift: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Give a straight line and its inverse, for an axis in other units."""
    return (lambda x: x * slope + shift), (lambda y: (y - shift) / slope)


def _spacing_mhz(tones: Sequence[Tone]) -> float | None:
    ends = tones[0], tones[-1]
    if any(tone.offset_hz is None or tone.subcarrier_index is None for tone in tones) or _x(ends[0]) == _x(ends[1]):
        return None
    return ((ends[1].offset_hz or 0.0) - (ends[0].offset_hz or 0.0)) * 1e-6 / (_x(ends[1]) - _x(ends[0]))


def _label_seconds(axes: Axes, seconds_per_frame: float) -> None:
    right = axes.secondary_yaxis("right", functions=_line(seconds_per_frame, 0.0))
    right.set_ylabel("seconds")


def _headline(figure: Figure, band: Band) -> None:
    """Write title and subtitle above everything; the drawing keeps clear of them, whatever the figure's height."""
    height, top = figure.get_figheight(), 0.12
    styles: tuple[dict[str, Any], ...] = (
        {"fontsize": 13, "fontweight": "bold"},
        {"fontsize": 8.5, "color": "#555555"},
    )
    for text, inches, below, style in zip((band.title, band.subtitle), (0.22, 0.15), (0.04, 0.07), styles, strict=True):
        # A name may well have a $ in it.
        artist = figure.text(MARGIN, 1 - top / height, "", ha="left", va="top", parse_math=False, **style)
        top += inches * _fill(artist, text, figure) + below
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - top / height))


def _fill(artist: Text, text: str, figure: Figure) -> int:
    """Write a text in as many lines as it needs, so that none is cut off at the edge; return how many.

    It is broken between words, and a word only where it is longer than a line may be.
    """
    width, height = figure.bbox.width, figure.bbox.height
    renderer = RendererAgg(width, height, figure.dpi)  # type: ignore[no-untyped-call]
    words = [word[i : i + LONGEST_WORD] for word in text.split() for i in range(0, len(word), LONGEST_WORD)]
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        artist.set_text(longer)
        if lines[-1] and artist.get_window_extent(renderer).width > width * (1 - 2 * MARGIN):
            lines.append(word)
        else:
            lines[-1] = longer
    artist.set_text("\n".join(lines))
    return len(lines)


def _legend(figure: Figure, band: Band) -> None:
    kinds = {tone.kind for tone in band.table.tones}
    marks: list[Any] = [Patch(color=POSITIVE, label="raises the target")]
    if np.any(np.asarray(band.tones) < 0):
        marks.append(Patch(color=NEGATIVE, label="lowers it"))
    else:
        marks = [Patch(color=POSITIVE, label="attribution")]
    on_null = [tone.row for tone in band.table.tones if tone.kind == "null"]
    if np.any(np.asarray(band.tones)[on_null]):
        marks.append(Patch(color=ON_NULL, label="on a tone without signal"))
    if "null" in kinds:
        marks.append(Patch(**NULL_PATCH, label="null tone"))
    if any(_missing(tones) for tones in _fields(band.table)):
        marks.append(Patch(**MISSING_PATCH, label="not recorded"))
    if "pilot" in kinds:
        marks.append(Line2D([], [], color=PILOT, lw=0.9, ls=(0, (2, 2)), label="pilot"))
    if band.planted:
        marks.append(Line2D([], [], marker="^", color=PLANTED, ls="", ms=5, label="planted tone"))
    if band.error is not None:
        marks.append(Line2D([], [], marker="|", color="#333333", ls="", ms=9, label="± standard error"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=8)


def _save(figure: Figure, path: Path) -> None:
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise ParameterError(f"{path}: expected a picture file ({', '.join(sorted(known))}), got '{path.suffix}'")
    with writing(path):
        figure.savefig(path)
