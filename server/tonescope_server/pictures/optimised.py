"""Feature visualisation: the windows that were found, and how the objective rose on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tonescope_server.csi.cells import CellMap
from tonescope_server.csi.images import as_image, is_image
from tonescope_server.pictures.colours import Scale, scale_of
from tonescope_server.pictures.figure import headline, new_figure
from tonescope_server.pictures.image import draw_image
from tonescope_server.pictures.spectrum import fields_of, index_label
from tonescope_server.pictures.waterfall import draw_map

MOST = 4
RANDOM = "#8a8a8a"


@dataclass(frozen=True)
class Optimised:
    """What a picture shows.

    Attributes:
        title: what was maximised.
        subtitle: what it is worth.
        layout: how a window's cells lie.
        windows: (seeds, *input shape).
        score: of each.
        history: the objective at each step, (seeds, steps).
        random_score: of random inputs of the same norm, (seeds, n).
    """

    title: str
    subtitle: str
    layout: CellMap
    windows: npt.NDArray[Any]
    score: npt.NDArray[Any]
    history: npt.NDArray[Any]
    random_score: npt.NDArray[Any]


def optimised_figure(found: Optimised) -> Figure:
    """Draw the first few windows side by side, and below how the objective rose."""
    shown = min(len(found.windows), MOST)
    figure = new_figure(max(3.6 * shown, 7.5), 6.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(1.5, 1))
    draw = _draw_images if is_image(found.layout) else _draw_windows
    draw(figure, grid[0], found, shown)
    _draw_history(figure.add_subplot(grid[1]), found)
    more = len(found.windows) - shown
    headline(figure, found.title, found.subtitle + (f" · {more} more not drawn" if more else ""))
    return figure


def _draw_images(figure: Figure, place: Any, found: Optimised, shown: int) -> None:
    inner = place.subgridspec(1, shown)
    for number in range(shown):
        axes = figure.add_subplot(inner[0, number])
        draw_image(figure, axes, as_image(found.windows[number]))
        axes.set_title(_name(found, number), fontsize=9)


def _draw_windows(figure: Figure, place: Any, found: Optimised, shown: int) -> None:
    """Draw tones × frames of each window, all on one scale; of links the sum, as of components."""
    layout = found.layout
    frames = layout.fold_frames(np.asarray(found.windows[:shown]))
    scale, fields = scale_of(frames), fields_of(layout.table)
    inner = place.subgridspec(1, shown * len(fields))
    axes: list[Axes] = []
    drawn: Any = None
    for number in range(shown):
        for at, tones in enumerate(fields):
            axes.append(figure.add_subplot(inner[0, number * len(fields) + at]))
            drawn = draw_map(axes[-1], tones, frames[number], None, scale)
            axes[-1].set_xlabel(index_label(tones), fontsize=8)
            axes[-1].set_title(_name(found, number) if at == 0 else "", fontsize=9)
    axes[0].set_ylabel("frame")
    figure.colorbar(drawn, ax=axes, **_bar(scale, layout.has_parts))


def _bar(scale: Scale, has_parts: bool) -> dict[str, Any]:
    said = "value of the input" + (",\nsummed over links and components" if has_parts else "")
    return {"label": said, "extend": scale.extend, "pad": 0.02}


def _name(found: Optimised, number: int) -> str:
    return f"seed {number}: {found.score[number]:.4g}"


def _draw_history(axes: Axes, found: Optimised) -> None:
    steps = np.arange(1, found.history.shape[1] + 1)
    for number, line in enumerate(found.history):
        axes.plot(steps, line, lw=1.2, label=f"seed {number}" if number < MOST else None)
    mean, deviation = float(found.random_score.mean()), float(found.random_score.std())
    axes.axhspan(mean - deviation, mean + deviation, color=RANDOM, alpha=0.25, lw=0)
    axes.axhline(mean, color=RANDOM, ls="--", label="random inputs of the same norm, ± 1 s.d.")
    axes.set_xlabel("step")
    axes.set_ylabel("objective\n(of shifted windows)")
    axes.set_xlim(1, max(len(steps), 2))
    axes.grid(color="#e5e5e5", lw=0.6)
    axes.spines[["right", "top"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
