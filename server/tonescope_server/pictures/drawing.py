"""An answer drawn: in the way that suits it or that was asked for, in all ways, and beside others."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from tonescope_server.csi.images import is_image
from tonescope_server.pictures.answer import CAPTIONS, Answer, Kind
from tonescope_server.pictures.band import Band, band_figure, parts_figure
from tonescope_server.pictures.colours import scale_of
from tonescope_server.pictures.image import OVER, bar_of, draw_image, draw_over, image_figure
from tonescope_server.pictures.maps import maps_figure, rows_of
from tonescope_server.pictures.spectrum import fields_of, index_label
from tonescope_server.pictures.waterfall import draw_map, map_figure


def answer_figure(answer: Answer, kind: str | None = None) -> Figure:
    """Draw an answer; None draws what suits it best.

    Raises:
        ParameterError: it has nothing to draw of that kind.
    """
    chosen = answer.kind(kind)
    if chosen is Kind.IMAGE:
        return image_figure(answer.title, answer.subtitle, answer.image, answer.pixels, answer.unit)
    if chosen is Kind.MAPS:
        over = _over_input(answer) if answer.cells is not None else None
        return maps_figure(answer.title, answer.subtitle, rows_of(answer.maps), over, _height_over(answer))
    if chosen is Kind.PARTS:
        return parts_figure(band_of(answer), answer.parts)
    if chosen is Kind.MAP:
        return map_figure(band_of(answer), answer.frames, answer.waterfall)
    return band_figure(band_of(answer))


def all_figures(answer: Answer) -> list[tuple[str, Figure]]:
    """Draw an answer in every way that suits it, each with a caption.

    The map has the band in it, and of an image rows and columns are no tones and frames.
    """
    shown = [kind for kind in answer.kinds if not (kind is Kind.BAND and Kind.MAP in answer.kinds)]
    if is_image(answer.layout):
        shown = [kind for kind in shown if kind is not Kind.MAP] or [Kind.BAND]
    return [(CAPTIONS[kind], answer_figure(answer, kind)) for kind in shown]


def band_of(answer: Answer) -> Band:
    """Return what a band plot shows of an answer."""
    return Band(answer.title, answer.subtitle, answer.table, answer.tones, answer.error, answer.unit, (), answer.alarms)


def _height_over(answer: Answer) -> float:
    """Say how high the drawing over the input is, in inches: that of an image goes by its sides."""
    if not is_image(answer.layout) or answer.cells is None:
        return 2.6
    rows, columns = answer.pixels.shape
    return min(3.6 * float(rows / columns), 3.0) + 1.0


def _over_input(answer: Answer) -> Any:
    """Return what draws the attribution of an answer's cells over its input, in one row of a figure."""

    def image(figure: Figure, place: Any) -> None:
        inner = place.subgridspec(1, 2)
        left, right = (figure.add_subplot(inner[0, i]) for i in range(2))
        shown, scale = answer.image, scale_of(answer.pixels, over=True)
        assert shown is not None  # the caller has looked
        draw_image(figure, left, shown)
        drawn = draw_over(right, shown, answer.pixels, scale)
        figure.colorbar(drawn, ax=right, **bar_of(f"{answer.unit} per pixel", scale.extend))
        right.set_title(OVER.format(answer.unit), fontsize=9)

    def spectrum(figure: Figure, place: Any) -> None:
        fields, scale = fields_of(answer.table), scale_of(answer.frames, over=answer.waterfall is not None)
        inner = place.subgridspec(1, len(fields))
        shown = [figure.add_subplot(inner[0, i]) for i in range(len(fields))]
        drawn: Any = None
        for axes, tones in zip(shown, fields, strict=True):
            drawn = draw_map(axes, tones, answer.frames, answer.waterfall, scale)
            axes.set_xlabel(index_label(tones), fontsize=8)
        shown[0].set_ylabel("frame", fontsize=8)
        figure.colorbar(drawn, ax=shown, label=f"{answer.unit} per cell", extend=scale.extend)

    return image if is_image(answer.layout) and answer.window is not None else spectrum
