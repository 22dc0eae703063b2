"""Several methods on one window, side by side: each with its own scale, for their units differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from tonescope_server.csi.images import is_image
from tonescope_server.errors import ParameterError
from tonescope_server.pictures.answer import Answer, Kind
from tonescope_server.pictures.band import draw_bars, legend
from tonescope_server.pictures.colours import scale_of
from tonescope_server.pictures.drawing import band_of
from tonescope_server.pictures.figure import headline, new_figure
from tonescope_server.pictures.image import bar_of, draw_image, draw_pixels
from tonescope_server.pictures.spectrum import fields_of, index_label
from tonescope_server.pictures.waterfall import draw_map

IN_A_ROW = 4


def comparison_figure(answers: Sequence[Answer], title: str, subtitle: str) -> Figure:
    """Draw the answers of several methods about one window.

    Raises:
        ParameterError: no answers.
    """
    if not answers:
        raise ParameterError("comparison: expected at least one answer, got none")
    pictures = is_image(answers[0].layout) and all(Kind.IMAGE in answer.kinds for answer in answers)
    figure = _images(answers) if pictures else _spectra(answers)
    headline(figure, title, subtitle)
    return figure


def _images(answers: Sequence[Answer]) -> Figure:
    """Draw the input once, and beside it every method's attribution, four in a row: opaque, for faint values too."""
    image = answers[0].image
    shown = len(answers) + (image is not None)
    columns = min(shown, IN_A_ROW)
    rows = -(-shown // columns)
    height = min(2.9 * answers[0].pixels.shape[0] / answers[0].pixels.shape[1], 4.0) + 1.1
    figure = new_figure(max(2.9 * columns, 6.0), height * rows + 0.7)
    axes: Any = figure.subplots(rows, columns, squeeze=False).ravel()
    if image is not None:
        draw_image(figure, axes[0], image)
    for each, answer in zip(axes[image is not None :], answers, strict=False):
        scale = scale_of(answer.pixels, over=True)  # as when it is drawn alone
        drawn = draw_pixels(each, answer.pixels, scale)
        each.set_title(answer.method, fontsize=9)
        figure.colorbar(drawn, ax=each, **bar_of(f"{answer.unit} per pixel", scale.extend))
    for each in axes[shown:]:
        each.set_axis_off()
    return figure


def _spectra(answers: Sequence[Answer]) -> Figure:
    """Draw a row for each method: its band, and its map where it has one."""
    fields = fields_of(answers[0].table)
    maps = any(Kind.MAP in answer.kinds for answer in answers)
    columns = len(fields) * (1 + maps)
    figure = new_figure(13 if maps else 10, 2.1 * len(answers) + 1.4)
    grid: Any = figure.subplots(len(answers), columns, squeeze=False, sharex=len(fields) == 1)
    for row, answer in zip(grid, answers, strict=True):
        scale = scale_of(answer.frames, over=answer.waterfall is not None) if Kind.MAP in answer.kinds else None
        for number, tones in enumerate(fields):
            draw_bars(row[number], band_of(answer), tones)
            if maps and scale is not None:
                place = row[len(fields) + number]
                drawn = draw_map(place, tones, answer.frames, answer.waterfall, scale)
                place.set_ylabel("frame" if number == 0 else "")
        if maps and scale is not None:
            figure.colorbar(
                drawn, ax=list(row[len(fields) :]), label=f"{answer.unit}\nper cell", pad=0.02, extend=scale.extend
            )
        elif maps:
            _say_none(row[len(fields) :])
        row[0].set_ylabel(f"{answer.method}\n{answer.unit}", parse_math=False)
    for number, axes in enumerate(grid[-1]):
        axes.set_xlabel(index_label(fields[number % len(fields)]))
    legend(figure, *(band_of(answer) for answer in answers))
    return figure


def _say_none(axes: Sequence[Any]) -> None:
    """Say where a method's map would stand that it has none."""
    for each in axes:
        each.text(0.5, 0.5, "per tone only", ha="center", va="center", color="#777777", transform=each.transAxes)
        each.set_yticks([])
