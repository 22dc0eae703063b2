"""The map of tones × frames over the waterfall."""

from __future__ import annotations

import numpy as np
import pytest

from tonescope_server.csi.tones import tone_table
from tonescope_server.pictures.band import Band
from tonescope_server.pictures.waterfall import map_figure


def band(layout: str, tones: np.ndarray | None = None) -> Band:
    table = tone_table(layout)
    return Band("A title", "a subtitle", table, np.linspace(-1, 1, len(table)) if tones is None else tones)


@pytest.mark.parametrize("layout", ["esp192_stbc", "esp192_ht40_below", "intel5300_ht20", "ruview56", "unknown_30"])
def test_layouts_of_every_kind_are_drawn_a_map_for_each_training_field(layout: str) -> None:
    drawn = band(layout)
    cells = np.random.default_rng(0).standard_normal((5, len(drawn.table)))
    figure = map_figure(drawn, cells, cells, seconds_per_frame=0.05)
    figure.canvas.draw()
    maps = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(maps) == len({tone.training_field for tone in drawn.table})
    assert maps[0].get_ylabel() == "frame"
    assert [child.get_ylabel() for child in maps[-1].child_axes] == ["seconds"]


def test_the_colours_of_the_map_are_symmetric_about_zero_and_their_scale_is_there() -> None:
    cells = np.zeros((4, 64))
    cells[1, 5] = -3.0
    figure = map_figure(band("esp_lltf"), cells, cells)
    attribution = figure.axes[1].collections[-1]
    assert attribution.get_clim() == (-3.0, 3.0)
    assert figure.axes[-1].get_ylabel() == "attribution per cell\n(grey: the window itself)"


def test_null_tones_are_left_out_of_the_map_unless_something_lies_on_them() -> None:
    table = tone_table("esp_lltf")
    nulls = np.flatnonzero(table.null_mask)
    cells = np.ones((4, 64))
    cells[:, nulls] = 0
    cells[2, nulls[0]] = 1e-3
    shown = map_figure(band("esp_lltf"), cells, cells).axes[1].collections[-1].get_array()
    assert np.ma.getmaskarray(shown).sum() == 4 * (len(nulls) - 1)


def test_a_map_of_zeros_is_drawn_without_a_warning() -> None:
    zeros = np.zeros((4, 64))
    map_figure(band("esp_lltf", np.zeros(64)), zeros, zeros).canvas.draw()
    map_figure(band("esp_lltf", np.zeros(64)), zeros, None).canvas.draw()
