"""Inputs that are images: the input, the attribution of every pixel, and the one over the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tonescope_server.pictures.colours import Scale, scale_of
from tonescope_server.pictures.figure import headline, new_figure

OVER = "{} over the input (faint where weak)"


def image_figure(
    title: str, subtitle: str, image: npt.NDArray[Any] | None, pixels: npt.NDArray[Any], unit: str = "attribution"
) -> Figure:
    """Draw an image, the attribution of its pixels, and the one over the other.

    Shapes:
        image ``(rows, columns, channels)``, of any range; None where it is not at hand. pixels ``(rows, columns)``:
        the sum over channels.
    """
    names = ["input", unit, OVER.format(unit)] if image is not None else [unit]
    width = 3.3
    height = float(np.clip(width * pixels.shape[0] / pixels.shape[1], 1.2, 6.0))
    figure = new_figure(max(width * len(names), 5.0), height + 1.8)
    axes: Any = figure.subplots(1, len(names), squeeze=False, sharex=True, sharey=True)
    scale = scale_of(pixels, over=True)
    for each, name in zip(axes[0], names, strict=True):
        each.set_title(name, fontsize=9)
        each.set_xlabel("column")
    axes[0][0].set_ylabel("row")
    if image is not None:
        draw_image(figure, axes[0][0], image)
        draw_over(axes[0][2], image, pixels, scale)
    drawn = draw_pixels(axes[0][-2 if image is not None else 0], pixels, scale)
    for each in axes[0][-2:] if image is not None else axes[0]:
        figure.colorbar(drawn, ax=each, **bar_of(f"{unit} per pixel", scale.extend))
    headline(figure, title, subtitle)
    return figure


def draw_image(figure: Figure, axes: Axes, image: npt.NDArray[Any]) -> None:
    """Draw an image with its scale: one channel in grey, three in colour, stretched to its own range for the eye."""
    low, high = float(image.min()), float(image.max())
    _count_pixels(axes)
    if image.shape[2] == 3:
        axes.imshow((image - low) / ((high - low) or 1.0), interpolation="nearest")
        axes.set_title(f"input (dark {low:.3g}, bright {high:.3g})", fontsize=9)
        return
    drawn = axes.imshow(image[:, :, 0], cmap="gray", norm=Normalize(low, high), interpolation="nearest")
    axes.set_title("input", fontsize=9)
    figure.colorbar(drawn, ax=axes, **bar_of("value of the input"))


def draw_pixels(axes: Axes, pixels: npt.NDArray[Any], scale: Scale | None = None) -> Any:
    """Draw the attribution of every pixel."""
    scale = scale or scale_of(pixels)
    _count_pixels(axes)
    return axes.imshow(pixels, cmap=scale.colours, norm=scale.norm, interpolation="nearest")


def draw_over(axes: Axes, image: npt.NDArray[Any], pixels: npt.NDArray[Any], scale: Scale) -> Any:
    """Lay the attribution over the image, in grey and paler: the stronger, the less of it shows through."""
    grey = image.mean(axis=2)
    low, high = float(grey.min()), float(grey.max())
    pale = Normalize(low - 1.2 * (high - low or 1.0), high)
    axes.imshow(grey, cmap="gray", norm=pale, interpolation="nearest")
    opacity: Any = np.clip(np.abs(pixels) / (scale.norm.vmax or 1.0), 0, 1) ** 0.5
    _count_pixels(axes)
    return axes.imshow(pixels, cmap=scale.colours, norm=scale.norm, alpha=0.9 * opacity, interpolation="nearest")


def _count_pixels(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def bar_of(label: str, extend: str = "neither") -> dict[str, Any]:
    """Return how a colour bar stands beside an image."""
    few = MaxNLocator(nbins=4)  # so that their labels stand apart
    return {"label": label, "extend": extend, "ticks": few, "orientation": "horizontal", "shrink": 0.9, "pad": 0.02}
