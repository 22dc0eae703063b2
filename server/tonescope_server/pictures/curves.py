"""Curves of insertion and deletion: what the model still says as the most or the least relevant is taken or given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tonescope_server.pictures.figure import headline, new_figure

RANDOM = "#8a8a8a"


@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes:
        name: of the method or the order.
        fractions: the part of the input that was changed at each point, ascending in [0, 1], ``(n,)``.
        values: what was measured there: ``(n,)``, or ``(windows, n)``, whose mean and standard error are drawn.
        area: under it, if known, for the legend.
        is_control: whether it is of a random order: drawn in grey.
    """

    name: str
    fractions: npt.NDArray[Any]
    values: npt.NDArray[Any]
    area: float | None = None
    is_control: bool = False


def curves_figure(
    title: str, subtitle: str, panels: Sequence[tuple[str, Sequence[Curve]]], unit: str = "target"
) -> Figure:
    """Draw a panel for each of deletion, insertion and the like, with one curve for each method.

    Args:
        title: what stands above; ``subtitle`` under it.
        subtitle: what one needs to read the picture.
        panels: what is done to the input, as the axis is to say it ("part of the tones deleted"), and its curves.
        unit: of what was measured.
    """
    figure = new_figure(max(4.8 * len(panels), 6.0), 4.6)
    axes: Any = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for each, (across, curves) in zip(axes[0], panels, strict=True):
        for number, curve in enumerate(curves):
            _draw(each, curve, f"C{number % 10}")
        each.set_xlabel(across)
        each.set_xlim(0, 1)
        each.grid(color="#e5e5e5", lw=0.6)
        each.spines[["right", "top"]].set_visible(False)
        has_bands = any(np.ndim(curve.values) == 2 and len(curve.values) > 1 for curve in curves)
        each.legend(frameon=False, fontsize=8, title="bands: ± standard error" if has_bands else None, title_fontsize=8)
    axes[0][0].set_ylabel(unit)
    headline(figure, title, subtitle)
    return figure


def _draw(axes: Axes, curve: Curve, colour: str) -> None:
    values = np.atleast_2d(curve.values)
    mean = values.mean(axis=0)
    colour, style = (RANDOM, "--") if curve.is_control else (colour, "-")
    name = curve.name if curve.area is None else f"{curve.name} (area {curve.area:.3g})"
    if len(values) > 1:
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        axes.fill_between(curve.fractions, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
    axes.plot(curve.fractions, mean, color=colour, ls=style, lw=1.6, label=name)
