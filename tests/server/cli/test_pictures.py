"""Pictures: what is hatched, marked and coloured is what the tones are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from tonescope_server.cli import pictures
from tonescope_server.csi.tones import tone_table
from tonescope_server.errors import ParameterError
from tonescope_server.services.in_process import client_table


def band(layout: str, tones: np.ndarray | None = None, **more: object) -> pictures.Band:
    table = client_table(tone_table(layout))
    tones = np.linspace(-1, 1, len(table)) if tones is None else tones
    return pictures.Band("A title", "a subtitle", table, tones, **more)  # type: ignore[arg-type]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written, to look into."""
    written: list[Figure] = []
    save = pictures._save
    monkeypatch.setattr(pictures, "_save", lambda figure, path: (written.append(figure), save(figure, path)))
    return written


@pytest.mark.parametrize("layout", ["esp192_stbc", "esp192_ht40_below", "intel5300_ht20", "ruview56", "unknown_30"])
def test_layouts_of_every_kind_are_drawn_both_ways(layout: str, tmp_path: Path) -> None:
    drawn = band(layout)
    pictures.band_picture(drawn, tmp_path / "band.png")
    cells = np.random.default_rng(0).standard_normal((5, len(drawn.table)))
    pictures.map_picture(drawn, cells, cells, tmp_path / "map.png", seconds_per_frame=0.05)
    for name in ("band.png", "map.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.getextrema()[0] != (255, 255)


def test_bars_stand_at_their_subcarrier_index_coloured_by_sign(figures: list[Figure], tmp_path: Path) -> None:
    tones = np.zeros(64)
    tones[3], tones[60] = 2.0, -1.0
    pictures.band_picture(band("esp_lltf", tones), tmp_path / "b.png")
    axes = figures[0].axes[0]
    drawn = {
        round(bar.get_x() + bar.get_width() / 2): (bar.get_height(), to_hex(bar.get_facecolor()))
        for bar in axes.containers[0]
        if bar.get_height()
    }
    assert drawn == {3: (2.0, pictures.POSITIVE), -4: (-1.0, pictures.NEGATIVE)}


@pytest.mark.parametrize("name", ["rec_1772470567081-20260302_165607.csi.jsonl", "a long name " * 20, "W" * 250])
def test_title_and_subtitle_take_as_many_lines_as_they_need(figures: list[Figure], tmp_path: Path, name: str) -> None:
    how = 'order "tone_frame", layout "ruview56" · normalisation none · below: window 6'
    said = f"count_v1 on {name}: mean |input × gradient| over 12 windows · {how}"
    drawn = replace(band("esp_lltf"), title=f"{name}: which tones", subtitle=said)
    pictures.band_picture(drawn, tmp_path / "b.png")
    cells = np.ones((5, len(drawn.table)))
    pictures.map_picture(drawn, cells, cells, tmp_path / "m.png")
    for figure in figures:
        renderer = RendererAgg(figure.bbox.width, figure.bbox.height, figure.dpi)  # type: ignore[no-untyped-call]
        title, subtitle = (text.get_window_extent(renderer) for text in figure.texts)
        assert max(title.x1, subtitle.x1) < figure.bbox.width
        assert title.y0 > subtitle.y1
        assert subtitle.y0 > max(axes.get_tightbbox(renderer).y1 for axes in figure.axes)
        assert "".join(figure.texts[1].get_text().split()) == "".join(said.split())


def legend(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.legends[0].get_texts()}


def test_the_legend_says_what_there_is_and_no_more(figures: list[Figure], tmp_path: Path) -> None:
    pictures.band_picture(band("ruview56", planted=(3,), error=np.ones(56)), tmp_path / "a.png")
    pictures.band_picture(band("unknown_30", np.ones(30)), tmp_path / "b.png")
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
    assert legend(figures[0]) == everything
    assert legend(figures[1]) == {"attribution"}


def test_frequency_is_told_only_where_it_is_known(figures: list[Figure], tmp_path: Path) -> None:
    pictures.band_picture(band("esp_lltf"), tmp_path / "a.png")
    pictures.band_picture(band("unknown_30"), tmp_path / "b.png")
    top = figures[0].axes[0].child_axes[0]
    assert "MHz" in top.get_xlabel()
    assert top.get_xlim() == pytest.approx((-32.5 * 0.3125, 31.5 * 0.3125))
    assert not figures[1].axes[0].child_axes
    assert "unknown" in figures[1].axes[0].get_xlabel()


def test_the_colours_of_the_map_are_symmetric_about_zero(figures: list[Figure], tmp_path: Path) -> None:
    cells = np.zeros((4, 64))
    cells[1, 5] = -3.0
    pictures.map_picture(band("esp_lltf"), cells, cells, tmp_path / "m.png")
    attribution = figures[0].axes[1].collections[-1]
    assert attribution.get_clim() == (-3.0, 3.0)


@pytest.mark.parametrize("name", ["band.txt", "band", "band.PNG.bak"])
def test_a_file_that_is_no_picture_is_refused_with_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ParameterError, match=r"expected a picture file \(.*jpg.*png.*svg.*\), got '(\.txt||\.bak)'$"
    ) as caught:
        pictures.band_picture(band("esp_lltf"), tmp_path / name)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_in_capitals_is_the_same_picture(tmp_path: Path) -> None:
    pictures.band_picture(band("esp_lltf"), tmp_path / "band.PNG")
    with Image.open(tmp_path / "band.PNG") as picture:
        assert picture.format == "PNG"


def test_a_map_of_zeros_is_drawn_without_a_warning(tmp_path: Path) -> None:
    zeros = np.zeros((4, 64))
    pictures.map_picture(band("esp_lltf", np.zeros(64)), zeros, zeros, tmp_path / "m.png")
