"""The doctor's pictures: a page that needs no other file, or one tall PNG. What is found out is in ``reports``."""

from __future__ import annotations

import base64
import html
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tonescope_server.checks.layout import Reading, Signature, declared_reading
from tonescope_server.cli.console import writing
from tonescope_server.errors import ParameterError
from tonescope_server.models.rows import row_table
from tonescope_server.pictures.band import Band, band_figure
from tonescope_server.pictures.figure import new_figure, png_of
from tonescope_server.pictures.waterfall import map_figure
from tonescope_server.reports.dataset import Kind
from tonescope_server.reports.doctor import Report
from tonescope_server.reports.readings import Explained
from tonescope_server.reports.tones.resampling import error_of_mean, overlap_of
from tonescope_server.services.in_process import client_table

ALIVE, NULL, NULL_ALIVE, DEAD = range(4)
_COLOURS = {
    ALIVE: ("#dbe9f6", "carries signal, as it should"),
    NULL: ("#9a9a9a", "null, and never carries any"),
    NULL_ALIVE: ("#d6604d", "should be null, but carries signal"),
    DEAD: ("#fdae61", "should carry signal, but never does"),
}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1040px; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
img { max-width: 100%; border: 1px solid #ddd; margin: .6em 0 }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
.finding { border-left: 5px solid #bbb; padding: .1em 1em; margin: 1em 0 }
.fault { border-color: #b2182b } .warning { border-color: #e6a700 }
pre { background: #f4f4f4; padding: .6em 1em; overflow-x: auto } .code { color: #666; font-size: .85em }
"""


def figures_of(report: Report) -> list[tuple[str, Figure]]:
    """Draw what a report has to show, each with a caption; nothing where there is no attribution."""
    made = report.as_declared_best()
    if report.trial is None or made is None or not len(made.windows):
        return []
    declared = declared_reading(report.model.cells)
    best = report.best.reading if report.best is not None else declared
    drawn = []
    if best != declared:
        band = _band(report, report.trial.now, declared, "as the manifest says")
        drawn.append(
            ("The attribution as things are: the rows are not the tones that they are called.", band_figure(band))
        )
        caption = (
            "The same, read as the zeros fit and normalised so: band, and one window with its attribution over it."
        )
    else:
        caption = "The attribution of every tone; and one window, with its attribution over it."
    band = _band(report, made, best, "as the zeros fit" if best != declared else "as the manifest says")
    window = len(made.windows) // 2
    cells = _tones(made.attribution[window], best)
    band = replace(band, subtitle=f"{band.subtitle} · below: window {window}")
    drawn.append((caption, map_figure(band, cells, _tones(made.raw[window], best))))
    if declared.table.knows_nulls:
        drawn.append(("Which cells never carry signal, against which should not.", _signature_figure(report, best)))
    return drawn


def write_png(report: Report, path: Path) -> None:
    """Write all pictures below each other.

    Raises:
        ParameterError: there is nothing to draw, or the file is no ``.png``.
        ConfigurationError: the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ParameterError(f"{path}: expected a .png file, got '{path.suffix}'")
    pictures = [_pixels(figure) for _, figure in figures_of(report)]
    if not pictures:
        raise ParameterError(f"{path}: nothing to draw: no window of {report.data.name} could be explained")
    with writing(path):
        imsave(path, np.concatenate(pictures))


def write_html(report: Report, table: str, verdict: str, path: Path) -> None:
    """Write a page that needs no other file.

    Args:
        report: the report.
        table: the table of readings, as HTML.
        verdict: the last line.
        path: where.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    title = f"{report.model.name} on {report.data.name}"
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p><b>{html.escape(verdict)}</b></p>"]
    parts += [_finding_html(entry.finding, entry.area, entry.manifest) for entry in report.entries]
    if table:
        parts += ["<h2>Which reading of the cells makes sense</h2>", table]
    for caption, figure in figures_of(report):
        parts.append(f"<h2>{html.escape(caption)}</h2>")
        picture = base64.b64encode(png_of(figure)).decode("ascii")
        parts.append(f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{picture}">')
    head = f'<meta charset="utf-8"><title>tonescope doctor: {html.escape(title)}</title><style>{_STYLE}</style>'
    with writing(path):
        path.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n')


def _finding_html(finding: Any, area: str, manifest: str) -> str:
    lines = [
        f'<div class="finding {finding.severity}"><p><b>{finding.severity.upper()}</b> '
        f'<span class="code">{finding.code}, {area}{_node(finding.node_id)}</span>'
        f"<br>{html.escape(finding.message)}</p>"
    ]
    if finding.remedy:
        lines.append(f"<p>→ {html.escape(finding.remedy)}</p>")
    if manifest:
        lines.append(f"<pre># model.toml\n{html.escape(manifest)}</pre>")
    return "".join(lines) + "</div>"


def _node(node_id: int | None) -> str:
    return "" if node_id is None else f", node {node_id}"


# -- pictures ------------------------------------------------------------------------------------------------------


def _band(report: Report, made: Explained, reading: Reading, how: str) -> Band:
    """Fold |attribution| into tones: its mean over windows, with the standard error."""
    folded = np.abs(np.stack([_tones(each, reading) for each in made.attribution])).sum(axis=1)
    n = len(folded)
    return Band(
        title=f"Where the model looks, {how}",
        subtitle=f"{report.model.name} on {report.data.name}: "
        f"mean |input × gradient| over {n} windows · "
        f'order "{reading.cell_order}", layout "{reading.layout}" · normalisation {made.windows.normalisation}',
        table=client_table(row_table(report.model.manifest, reading.layout)),
        tones=folded.mean(axis=0),
        error=_error(report, made, folded.astype(np.float64)),
        unit="mean |attribution|",
    )


def _error(report: Report, made: Explained, folded: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Return the standard error of the mean over windows that follow each other, and share frames."""
    hop = report.hop if report.data.kind is Kind.RECORDING else 0
    nodes = made.windows.node_ids
    thinned = len(report.windows) / len(folded)
    overlap = ceil(overlap_of(report.model.cells.n_frames, hop, nodes) / thinned)
    return error_of_mean(folded, nodes, overlap)


def _tones(cells: npt.NDArray[Any], reading: Reading) -> npt.NDArray[Any]:
    """Unfold the flat cells of one window: ``[n_frames, n_tones]`` in the order of the tone table; lost tones are 0."""
    frames: npt.NDArray[Any] = reading.frames(cells[None])[0]
    tones = np.zeros_like(frames)
    known = reading.tone_of_row >= 0
    tones[:, reading.tone_of_row[known]] = frames[:, known]
    return np.asarray(tones)


def _signature_figure(report: Report, best: Reading) -> Figure:
    """Draw which cells never carry signal: frames up, rows of the array across; as declared, and as they fit."""
    assert report.trial is not None  # there are figures only where windows were explained
    readings = [declared_reading(report.model.cells)]
    readings += [best] if best != readings[0] else []
    figure = new_figure(10, 0.9 + 3.0 * len(readings))
    axes: Any = figure.subplots(len(readings), 1, squeeze=False)
    for each, reading in zip(axes[:, 0], readings, strict=True):
        made = report.trial.by_order[reading.cell_order]
        is_declared = reading == readings[0]
        name = "as declared" if is_declared else "as it fits"
        _draw_signature(each, signature_map(made.raw, reading))
        title = f'{name}: order "{reading.cell_order}", layout "{reading.layout}"'
        shift = f", rolled by {reading.rolled:+d} rows" if reading.rolled else ""
        shift += f", {reading.header_rows} rows of header" if reading.header_rows else ""
        each.set_title(title + shift, loc="left", fontsize=10)
    handles = [Patch(facecolor=colour, edgecolor="#888888", lw=0.4, label=name) for colour, name in _COLOURS.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(
        "Zero signature: which cells never carry signal", x=0.012, ha="left", fontsize=13, fontweight="bold"
    )
    return figure


def signature_map(raw: npt.NDArray[Any], reading: Reading) -> npt.NDArray[np.int64]:
    """Say of each cell what it should be and what it is, as a reading has it: ``[n_frames, n_rows]``.

    Shapes:
        raw: ``[n, n_cells]``.
    """
    signature = Signature.of(raw)
    still = signature.dead | signature.stuck
    state = np.where(reading.null_cells, np.where(still, NULL, NULL_ALIVE), np.where(still, DEAD, ALIVE))
    return np.asarray(reading.frames(state[None].astype(np.float32))[0], np.int64)


def _draw_signature(axes: Axes, state: npt.NDArray[np.int64]) -> None:
    colours = ListedColormap([colour for colour, _ in _COLOURS.values()])
    edges = [np.arange(size + 1) - 0.5 for size in state.shape[::-1]]
    norm = BoundaryNorm(np.arange(5) - 0.5, 4)
    axes.pcolormesh(edges[0], edges[1], state, cmap=colours, norm=norm, edgecolors="white", linewidth=0.15)
    axes.set_xlabel("row of the array")
    axes.set_ylabel("frame")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)
