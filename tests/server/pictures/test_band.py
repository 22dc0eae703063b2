"""Band plots: what is hatched, marked and coloured is what the tones are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tonescope_server.csi.tones import tone_table
from tonescope_server.pictures.band import Band, band_figure, parts_figure
from tonescope_server.pictures.colours import NEGATIVE, POSITIVE
from tonescope_server.pictures.waterfall import map_figure


def band(layout: str, tones: np.ndarray | None = None, **more: object) -> Band:
    table = tone_table(layout)
    tones = np.linspace(-1, 1, len(table)) if tones is None else tones
    return Band("A title", "a subtitle", table, tones, **more)  # type: ignore[arg-type]


def test_bars_stand_at_their_subcarrier_index_coloured_by_sign() -> None:
    tones = np.zeros(64)
    tones[3], tones[60] = 2.0, -1.0
    axes = band_figure(band("esp_lltf", tones)).axes[0]
    drawn = {
        round(bar.get_x() + bar.get_width() / 2): (bar.get_height(), to_hex(bar.get_facecolor()))
        for bar in axes.containers[0]
        if bar.get_height()
    }
    assert drawn == {3: (2.0, POSITIVE), -4: (-1.0, NEGATIVE)}


@pytest.mark.parametrize("name", ["rec_1772470567081-20260302_165607.csi.jsonl", "a long name " * 20, "W" * 250])
def test_title_and_subtitle_take_as_many_lines_as_they_need(name: str) -> None:
    how = 'order "tone_frame", layout "ruview56" · normalisation none · below: window 6'
    said = f"count_v1 on {name}: mean |input × gradient| over 12 windows · {how}"
    drawn = replace(band("esp_lltf"), title=f"{name}: which tones", subtitle=said)
    cells = np.ones((5, len(drawn.table)))
    for figure in (band_figure(drawn), map_figure(drawn, cells, cells)):
        figure.canvas.draw()
        renderer = RendererAgg(figure.bbox.width, figure.bbox.height, figure.dpi)  # type: ignore[no-untyped-call]
        title, subtitle = (text.get_window_extent(renderer) for text in figure.texts)
        assert max(title.x1, subtitle.x1) < figure.bbox.width
        assert title.y0 > subtitle.y1
        assert subtitle.y0 > max(axes.get_tightbbox(renderer).y1 for axes in figure.axes)
        assert "".join(figure.texts[1].get_text().split()) == "".join(said.split())


def legend(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.legends[0].get_texts()}


def test_the_legend_says_what_there_is_and_no_more() -> None:
    everything = {
        "raises the target",
        "lowers it",
        "on a tone without signal",
        "null tone",
        "not recorded",
        "pilot",
        "planted tone",
        "± standard error",
    }
    assert legend(band_figure(band("ruview56", planted=(3,), error=np.ones(56)))) == everything
    assert legend(band_figure(band("unknown_30", np.ones(30), unit="saliency"))) == {"saliency"}


def test_what_is_too_little_to_be_seen_on_null_tones_is_not_in_the_legend() -> None:
    tones = np.ones(64)
    nulls = tone_table("esp_lltf").null_mask
    for on_null, said in ((1e-3, False), (0.1, True), (0.0, False)):
        tones[nulls] = on_null
        assert ("on a tone without signal" in legend(band_figure(band("esp_lltf", tones)))) is said
    assert "on a tone without signal" not in legend(band_figure(band("esp_lltf", np.ones(64), alarms=False)))


def test_frequency_is_told_only_where_it_is_known() -> None:
    figure = band_figure(band("esp_lltf"))
    top = figure.axes[0].child_axes[0]
    figure.canvas.draw()
    assert "MHz" in top.get_xlabel()
    assert top.get_xlim() == pytest.approx((-32.5 * 0.3125, 31.5 * 0.3125))
    unknown = band_figure(band("unknown_30")).axes[0]
    assert not unknown.child_axes
    assert "unknown" in unknown.get_xlabel()


def test_each_part_has_a_band_of_its_own_with_its_name() -> None:
    figure = parts_figure(band("esp_lltf"), [("antenna $1", np.ones(64)), ("antenna 2", -np.ones(64))])
    assert [axes.get_ylabel() for axes in figure.axes] == ["antenna $1\nattribution", "antenna 2\nattribution"]
    heights = [{bar.get_height() for bar in axes.containers[0]} for axes in figure.axes]
    assert heights == [{1.0}, {-1.0}]
    figure.canvas.draw()
