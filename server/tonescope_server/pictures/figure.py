"""What every picture is drawn on: a figure that notebooks show, and the lines above the drawing."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from tonescope_server.pictures.colours import FAINT

DPI = 150
MARGIN = 0.012  # of the figure's width, beside what is written above the drawing
LONGEST_WORD = 40  # characters: fewer than fit in a line, in any letters


class Picture(Figure):
    """A figure without a window of its own: a notebook shows it, whether or not pyplot was ever imported."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


def new_figure(width: float, height: float) -> Picture:
    """Make an empty figure; sizes in inches."""
    figure = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: Figure) -> bytes:
    """Render a figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def headline(figure: Figure, title: str, subtitle: str) -> None:
    """Write title and subtitle above everything; the drawing keeps clear of them, whatever the figure's height."""
    height, top = figure.get_figheight(), 0.12
    styles: tuple[dict[str, Any], ...] = (
        {"fontsize": 13, "fontweight": "bold"},
        {"fontsize": 8.5, "color": FAINT},
    )
    for text, inches, below, style in zip((title, subtitle), (0.22, 0.15), (0.04, 0.07), styles, strict=True):
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
    # Each piece, and what stands before it: a space, or nothing within a word.
    pieces = [
        (word[i : i + LONGEST_WORD], " " if i == 0 else "")
        for word in text.split()
        for i in range(0, len(word), LONGEST_WORD)
    ]
    lines = [""]
    for piece, before in pieces:
        longer = f"{lines[-1]}{before}{piece}".strip()
        artist.set_text(longer)
        if lines[-1] and artist.get_window_extent(renderer).width > width * (1 - 2 * MARGIN):
            lines.append(piece)
        else:
            lines[-1] = longer
    artist.set_text("\n".join(lines))
    return len(lines)
